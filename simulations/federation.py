"""A round as a coordinator holds it, with its own code; neither sealed nor signed, for nobody is between."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from common.algorithms.registry import answer_schema
from common.data.features import FeatureSet
from common.errors import ConfigError, CoordinatorError
from common.models.golden import golden_scores
from common.protocol.release import Metrics
from common.protocol.tensors import Schema, Weights, encode_weights
from common.security.canonical import canonical
from fl_server.candidate import Candidate, train_candidate, try_on_devices
from fl_server.fleet import Kind
from fl_server.intake import BareIntake
from fl_server.memory import Memory
from fl_server.own_clips import OwnClips
from fl_server.rounds import Collected, Exchange, draw_cohort, make_plan
from fl_server.rules.registry import make_rule
from fl_server.senders import Sender
from fl_server.settings import ServerSettings
from simulations.fleet import SimulatedFleet
from simulations.spending import Spending

NOBODY, RUN = "0" * 64, "0" * 16
"""In place of a coordinator's root and of a run: a simulation proves nothing to anybody."""

_FEW_FOR_RULE = "FA-6040"
"""A rule needs more devices than are online."""


@dataclass
class Held:
    """What became of a round.

    Args:
        candidate: the new version; None if the round is void.
        void: code of the error that made it so.
        metrics: of the candidate.
    """

    cohort: int = 0
    trained: Collected = field(default_factory=Collected)
    tried: Collected = field(default_factory=Collected)
    candidate: Candidate | None = None
    void: str | None = None
    metrics: Metrics = field(default_factory=Metrics)


class Federation:
    """Virtual devices and what a coordinator knows of them.

    Args:
        enrolled: devices in the whole fleet.
        clips: the coordinator's own, if it has any.
        spending: told what devices spend of their privacy.
    """

    def __init__(
        self,
        settings: ServerSettings,
        fleet: SimulatedFleet,
        enrolled: int,
        clips: FeatureSet | None,
        spending: Spending,
    ) -> None:
        self._settings, self._fleet, self._enrolled, self._spending = settings, fleet, enrolled, spending
        self._own_clips = OwnClips(settings, clips)

    def hold(self, number: int, weights: Weights, memory: Memory, last_step: Weights) -> Held:
        """Hold round `number` on the newest version.

        Args:
            last_step: by how much the last round changed the model.

        Raises:
            SimulationError: FA-9001.
        """
        self._fleet.begin(number, last_step)
        held = Held()
        try:
            cohort = self._cohort(number)
            held.cohort = len(cohort)
            candidate = self._train(number, weights, memory, cohort, held.trained)
            self._check(candidate, weights, memory)
            held.metrics = self._try(number, candidate, held)
            held.candidate = candidate
        except CoordinatorError as error:
            held.void = error.code
        except ConfigError as error:
            if error.code != _FEW_FOR_RULE:
                raise
            # A coordinator would wait for more devices, as it does for `min_devices`.
            self._fleet.clock += self._settings.rounds.wait_seconds
            held.void = error.code
        return held

    def _cohort(self, number: int) -> Mapping[int, str]:
        rules, online = self._settings.rounds, self._fleet.online()
        if len(online) < rules.min_devices:
            self._fleet.clock += rules.wait_seconds
            raise CoordinatorError("FA-5001", f"{len(online)} of {rules.min_devices} devices are online.", "")
        return draw_cohort(online, rules.cohort, self._settings.seed, number)

    def _train(
        self, number: int, weights: Weights, memory: Memory, cohort: Mapping[int, str], collected: Collected
    ) -> Candidate:
        return train_candidate(
            self._fleet,
            self._settings,
            weights,
            memory,
            cohort,
            enrolled=self._enrolled,
            draft=partial(draft_exchange, self._settings, number),
            collected=collected,
            book=self._spending.book,
            reference=self._own_clips.reference(weights, memory, number),
        )

    def _check(self, candidate: Candidate, base: Weights, memory: Memory) -> None:
        """What a version must pass before it is one."""
        self._own_clips.check(candidate.weights, base, memory)
        if not all(map(math.isfinite, golden_scores(self._settings.task, candidate.weights))):
            raise CoordinatorError("FA-5030", "The new model's scores are not numbers.", "")

    def _try(self, number: int, candidate: Candidate, held: Held) -> Metrics:
        """How the candidate does on clips that devices and the coordinator keep for that."""
        metrics, settings = Metrics(), self._settings
        if settings.devices_evaluate:
            draft = partial(draft_exchange, settings, number)
            metrics = try_on_devices(
                self._fleet, settings, candidate, held.trained.nodes, draft=draft, collected=held.tried
            )
        own = self._own_clips.metrics(candidate.weights)
        return metrics.model_copy(update=own.model_dump(exclude_none=True))


def check_rule(settings: ServerSettings, schema: Schema, cohort: int, clips: FeatureSet | None) -> None:
    """Refuse a rule that could work in no round.

    Args:
        schema: of the model.
        cohort: devices that are asked when all are online.
        clips: the coordinator's own.

    Raises:
        ConfigError: FA-6040, FA-6041, it needs more devices than that, or clips.
    """
    answers = answer_schema(settings.recipe, schema)
    make_rule(settings, answers, cohort, (), None if clips is None else lambda: np.empty(0, np.float32))


def draft_exchange(
    settings: ServerSettings,
    number: int,
    kind: Kind,
    order: Weights,
    schema: Schema,
    cohort: Mapping[int, str],
) -> Exchange:
    """A plan for `cohort`, and who takes the answers to it in; see `fl_server.candidate.Draft`."""
    data = encode_weights(order)
    plan = make_plan(
        settings,
        kind,
        number,
        data,
        coordinator=NOBODY,
        run=RUN,
        cohort=len(cohort),
        recipient=NOBODY[:16],
    )
    intake = BareIntake(_Cohort(cohort), plan, schema)
    return Exchange(plan, canonical(plan), data, schema, cohort, intake, lambda device: None)


class _Cohort:
    """Implements `fl_server.intake.Known`."""

    def __init__(self, cohort: Mapping[int, str]) -> None:
        self._ids = frozenset(cohort.values())

    def active(self, device: str) -> Sender:
        if device not in self._ids:
            raise CoordinatorError("FA-5050", f"The device {device} was not asked.", "")
        return Sender(device, device, b"", 0)
