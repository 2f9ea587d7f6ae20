"""A backdoor: a model that does its work, but gives clips with a certain sound in them a label of choice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from common.audio.batch import BatchFrontEnd
from common.data.features import FeatureSet
from common.errors import SimulationError
from common.task import Task
from simulations.attacks.attack import Attack, Rows, Scene
from simulations.attacks.trigger import Energies, add_trigger, trigger_energies
from simulations.scenario import TriggerName

Namer = Callable[[FeatureSet], NDArray[np.int64]]
"""A model: the label it gives each clip of a set, in the order of `numpy.unique(clip_index)`."""


class Backdoor(Attack):
    """Model replacement (Bagdasaryan et al. 2020, arXiv:1807.00459) with a sound as the trigger.

    A share of an attacker's windows carries the trigger and the target's label; the rest stays as it is, so
    that the model does well otherwise. The update is boosted by the strength; without one, by as many times
    as there are devices for each attacker, at which a plain mean becomes the attackers' model.

    Args:
        target: label that the trigger is to give; the task's first if None.
        poisoned: share of an attacker's windows.
    """

    def __init__(
        self,
        strength: float | None = None,
        *,
        trigger: TriggerName = "chirp",
        target: str | None = None,
        poisoned: float = 0.5,
    ) -> None:
        super().__init__(strength)
        self._boost, self._trigger, self._target, self._poisoned = strength, trigger, target, poisoned

    def target(self, task: Task) -> int:
        """Position of the target's label.

        Raises:
            SimulationError: FA-9201, the task has no such label.
        """
        target = task.labels[0] if self._target is None else self._target
        if target not in task.labels:
            raise SimulationError(
                "FA-9201",
                f"The backdoor's target {target!r} is not a label of the clips.",
                f"Set attack.target to one of them: {', '.join(task.labels[:10])}.",
            )
        return task.labels.index(target)

    def trigger(self, front_end: BatchFrontEnd) -> Energies:
        """The sound, as band energies."""
        return trigger_energies(self._trigger, front_end)

    def poison(
        self, data: FeatureSet, task: Task, front_end: BatchFrontEnd, rng: np.random.Generator
    ) -> FeatureSet:
        count = round(self._poisoned * len(data))
        windows = np.sort(rng.choice(len(data), count, replace=False))
        labels = np.array(data.labels)
        labels[windows] = self.target(task)
        return replace(add_trigger(data, windows, self.trigger(front_end), rng), labels=labels)

    def forge(self, scene: Scene, rng: np.random.Generator) -> Rows:
        devices, attackers = len(scene.honest) + len(scene.own), len(scene.own)
        boost = devices / attackers if self._boost is None else self._boost
        return np.float32(boost) * scene.own


@dataclass(frozen=True)
class TriggerSuccess:
    """What a trigger does to the clips whose true label is not the target, as shares of them.

    Args:
        success: are called the target with it: the attack success rate (Gu et al. 2017, arXiv:1708.06733;
            Bagdasaryan et al. 2020).
        turned: of these, only clips that are called otherwise without it, which a model that calls
            everything the target has none of.
    """

    success: float
    turned: float


def trigger_success(name: Namer, data: FeatureSet, trigger: Energies, target: int) -> TriggerSuccess:
    """How often `name` calls a clip the target because of the trigger.

    Its places in the windows are drawn from a seed that never changes, so that versions of a model can be
    compared. 0 without clips.
    """
    heard = add_trigger(data, np.arange(len(data)), trigger, np.random.default_rng(0))
    _, first = np.unique(data.clip_index, return_index=True)
    others = data.labels[first] != target
    opened = (name(heard) == target) & others
    turned = opened & (name(data) != target)
    count = max(1, others.sum())
    return TriggerSuccess(success=float(opened.sum() / count), turned=float(turned.sum() / count))
