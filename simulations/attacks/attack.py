"""The seam: an attacker is a device of the population that may change its clips, its updates, or both."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from common.audio.batch import BatchFrontEnd
from common.data.features import FeatureSet
from common.protocol.tensors import Row
from common.task import Task

Rows = NDArray[np.float32]
"""Updates, one a row, (devices, values)."""


@dataclass(frozen=True)
class Scene:
    """What attackers know when they decide what to send: as much as the strongest attacker of the literature.

    Args:
        honest: updates of the honest devices of the cohort, by device, (n, values); n may be 0.
        own: what the attackers would send had they only changed their clips, (m, values), m >= 1.
        last_step: by how much the last round changed the model, (values,); zeros in the first.
    """

    round: int
    honest: Rows = field(repr=False)
    own: Rows = field(repr=False)
    last_step: Row = field(repr=False)


class Attack:
    """Honest devices. A subclass states its difference.

    Args:
        strength: the attack's own number.
    """

    usual_strength = 1.0

    def __init__(self, strength: float | None = None) -> None:
        self.strength = self.usual_strength if strength is None else strength

    def poison(
        self, data: FeatureSet, task: Task, front_end: BatchFrontEnd, rng: np.random.Generator
    ) -> FeatureSet:
        """The clips that an attacker trains on in place of `data`; called in a worker."""
        return data

    def forge(self, scene: Scene, rng: np.random.Generator) -> Rows:
        """What the attackers send, (m, values); called once a round, when everybody else has answered."""
        return scene.own
