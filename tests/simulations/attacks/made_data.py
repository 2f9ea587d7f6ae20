"""Clips and updates for attacks, small and from a seed."""

from __future__ import annotations

import numpy as np

from common.audio.batch import BatchFrontEnd
from common.data.features import FeatureSet
from common.task import Task
from simulations.attacks.attack import Scene

TASK = Task(labels=("go", "no", "stop", "up", "yes"))
FRONT_END = BatchFrontEnd(TASK.front_end)


def made_clips(count: int, seed: int = 0, task: Task = TASK) -> FeatureSet:
    """One window a clip, read-only as it is when it comes from disk, with ready features."""
    rng = np.random.default_rng(seed)
    shape = count, task.clip_frames, task.front_end.bands
    energies = rng.gamma(1.0, 1e-3, shape).astype(np.float32)
    labels = rng.integers(0, len(task.labels), count)
    features = np.zeros((*shape[:2], task.front_end.features), np.float32)
    for array in (energies, labels, features):
        array.setflags(write=False)
    return FeatureSet(energies, labels, np.arange(count), (("bad.flac", "damaged"),), features)


def made_scene(honest: int = 8, attackers: int = 2, values: int = 50, seed: int = 0) -> Scene:
    """Updates with a common direction; read-only, as they lie in messages."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((honest + attackers, values), np.float32) + np.float32(0.5)
    rows.setflags(write=False)
    return Scene(3, rows[:honest], rows[honest:], rng.standard_normal(values, np.float32))
