"""Label flip: honest training on clips with wrong labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from common.audio.batch import BatchFrontEnd
from common.data.features import FeatureSet
from common.task import Task
from simulations.attacks.attack import Attack


class LabelFlip(Attack):
    """Label l of L becomes L - 1 - l (Fang et al. 2020, arXiv:1911.11815); the strength means nothing.

    Of an odd number of labels, the one in the middle stays right.
    """

    def poison(
        self, data: FeatureSet, task: Task, front_end: BatchFrontEnd, rng: np.random.Generator
    ) -> FeatureSet:
        return replace(data, labels=len(task.labels) - 1 - data.labels)
