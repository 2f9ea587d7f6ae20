"""How versions do on clips of speakers that nobody in a simulation has."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.data.features import FeatureSet
from common.protocol.tensors import Weights
from common.training.metrics import Evaluation
from fl_server.validation import Validation
from simulations.attacks.attack import Attack
from simulations.attacks.backdoor import Backdoor, TriggerSuccess, trigger_success
from simulations.checkpoint import Tested
from simulations.population import World
from simulations.results import UnseenResult


class Judge:
    """Tries weights on a world's unseen clips, and a backdoor's trigger with them."""

    def __init__(self, world: World, attack: Attack) -> None:
        self._world, self._attack = world, attack
        self._clips = Validation(world.unseen, world.task)

    def test(self, weights: Weights) -> Tested:
        """The figures of one version."""
        result = self.evaluate(weights)
        attack = self._attack_success(weights)
        return Tested(
            accuracy=result.accuracy,
            loss=result.loss,
            attack_success=attack and attack.success,
            attack_turned=attack and attack.turned,
        )

    def evaluate(self, weights: Weights) -> Evaluation:
        """All of it.

        Raises:
            TrainingError: FA-7004, the scores are not finite.
        """
        return self._clips.evaluate(weights)

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

    def _attack_success(self, weights: Weights) -> TriggerSuccess | None:
        """Of a backdoor's trigger; None where there is no backdoor."""
        attack = self._attack
        if not isinstance(attack, Backdoor):
            return None
        trigger, target = attack.trigger(self._clips.front_end), attack.target(self._world.task)

        def given(data: FeatureSet) -> NDArray[np.int64]:
            return self._clips.evaluate(weights, data).given

        return trigger_success(given, self._world.unseen, trigger, target)
