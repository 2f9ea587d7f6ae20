"""How versions do on clips of speakers that nobody in a simulation has."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from common.audio.batch import BatchFrontEnd
from common.data.features import FeatureSet
from common.models.registry import build_model
from common.models.weights import set_weights
from common.protocol.tensors import Weights
from common.training.metrics import Evaluation, evaluate
from simulations.attacks.attack import Attack
from simulations.attacks.backdoor import Backdoor, trigger_success
from simulations.checkpoint import Tested
from simulations.population import World
from simulations.results import UnseenResult


class Judge:
    """Tries weights on a world's unseen clips, and a backdoor's trigger with them."""

    def __init__(self, world: World, attack: Attack) -> None:
        self._world, self._attack = world, attack
        self._model = build_model(world.task, torch.Generator())
        self._front_end = BatchFrontEnd(world.task.front_end)

    def test(self, weights: Weights) -> Tested:
        """The figures of one version."""
        result = self.evaluate(weights)
        return Tested(accuracy=result.accuracy, loss=result.loss, attack_success=self._attack_success())

    def evaluate(self, weights: Weights) -> Evaluation:
        """All of it.

        Raises:
            TrainingError: FA-7004, the scores are not finite.
        """
        set_weights(self._model, weights)
        return evaluate(self._model, self._front_end, self._world.unseen)

    def by_name(self, result: Evaluation) -> tuple[UnseenResult, ...]:
        """`result` by speaker (group, fold), in the order of their names."""
        unseen = self._world.unseen
        clips, first = np.unique(unseen.clip_index, return_index=True)
        right = result.given == unseen.labels[first]
        names = np.array(self._world.unseen_names)[clips]
        return tuple(
            UnseenResult(name=str(name), clips=int(own.sum()), correct=int(right[own].sum()))
            for name in np.unique(names)
            for own in [names == name]
        )

    def _attack_success(self) -> float | None:
        """Of a backdoor's trigger with the model's present weights; None where there is no backdoor."""
        attack, task = self._attack, self._world.task
        if not isinstance(attack, Backdoor):
            return None
        trigger, target = attack.trigger(self._front_end), attack.target(task)
        return trigger_success(self._given, self._world.unseen, trigger, target)

    def _given(self, data: FeatureSet) -> NDArray[np.int64]:
        """The label that the model's present weights give each clip."""
        return evaluate(self._model, self._front_end, data).given
