"""Devices' work as they would do it themselves: from an order to the very bytes a device sends."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from common.algorithms.registry import ALGORITHMS
from common.audio.batch import BatchFrontEnd
from common.data.features import FeatureSet
from common.errors import FedAudioError
from common.privacy.secure_random import SecureRandom
from common.protocol.answer import encode_answer
from common.protocol.plan import parse_plan
from common.protocol.tensors import decode_weights
from common.task import Task
from common.training.local import LocalTrainer
from common.training.trainer import uncounted
from fl_client.refusing import refuse
from simulations.attacks.registry import make_attack
from simulations.kept import Kept
from simulations.population import open_population
from simulations.scenario import Scenario

POISON = 0x0501
"""Sets the draws of attackers' clips apart from all others of the same seed."""


class Workbench:
    """One trainer, and all devices of a population to work for.

    Args:
        world: folder of the population.
        seed: of the simulation.
        kept: folder for what devices keep between rounds.
    """

    def __init__(self, world: Path, scenario: Scenario, seed: int, kept: Path) -> None:
        self._population, self._kept = open_population(world), Kept(kept)
        self._attack, self._seed, self._seeded = make_attack(scenario.attack), seed, scenario.seeded_noise

    def take_order(self, plan: bytes, order: bytes | memoryview) -> None:
        """Read what the next answers are about.

        Args:
            order: must stay as it is until the next.
        """
        self._plan = parse_plan(plan)
        self._trainer = _trainer(self._plan.task)
        algorithm, schema = ALGORITHMS[self._plan.recipe.algorithm], self._trainer.schema
        self._order = decode_weights(order, algorithm.order_schema(schema))
        self._keeps = bool(algorithm.kept_schema(schema))

    def answer(self, device: int, attacks: bool) -> bytes:
        """What `device` sends, with what it keeps on disk before; what goes wrong is a refusal, as there."""
        plan, training = self._plan, self._plan.kind == "train"
        try:
            data = self._population.data(device)
            if attacks:
                data = self._poisoned(data, device)
            done = self._trainer.answer(
                plan,
                self._order,
                data,
                self._population.held_out(device) if plan.holdout else (),
                self._population.id(device),
                kept=self._kept.read(device, plan.round + (not training)) if self._keeps else {},
                before_spending=uncounted,
                noise_random=self._noise(device) if self._seeded else None,
            )
        except FedAudioError as error:
            return refuse(error)
        if training:
            self._kept.write(device, plan.round, done.kept)
        # The seconds of this machine are in nobody's interest, and would change how long an answer is.
        return encode_answer(done.report.model_copy(update={"seconds": 0.0}), done.answer)

    def _poisoned(self, data: FeatureSet, device: int) -> FeatureSet:
        """The clips an attacker makes of its own, the same in every round."""
        rng = np.random.default_rng([self._seed, POISON, device])
        return self._attack.poison(data, self._plan.task, self._front_end, rng)

    @cached_property
    def _front_end(self) -> BatchFrontEnd:
        return BatchFrontEnd(self._plan.task.front_end)

    def _noise(self, device: int) -> SecureRandom:
        """Privacy noise that can be repeated, and so protects nobody."""
        purpose = json.dumps(["noise", self._seed, self._plan.round, device])
        return SecureRandom(hashlib.sha256(purpose.encode()).digest())


@lru_cache(maxsize=1)
def _trainer(task: Task) -> LocalTrainer:
    """The one of the last task, for as long as that lasts."""
    return LocalTrainer(task)
