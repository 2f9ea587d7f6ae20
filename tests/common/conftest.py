"""A small task whose labels are bursts in different bands: easy for any model that hears at all."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from common.audio.batch import BatchFrontEnd
from common.audio.front_end import LogMel
from common.data.features import FeatureSet
from common.models.acoustic import AcousticModel
from common.models.registry import build_model
from common.task import Task


@pytest.fixture(scope="session")
def task() -> Task:
    return Task(labels=("low", "middle", "high"), front_end=LogMel(bands=12), width=16, clip_seconds=0.3)


@pytest.fixture(scope="session")
def front_end(task: Task) -> BatchFrontEnd:
    return BatchFrontEnd(task.front_end)


@pytest.fixture(scope="session")
def make_toy(task: Task) -> Callable[..., FeatureSet]:
    """make_toy(clips, seed=0, windows=1): noise with a burst of 5 frames in the 4 bands of the label."""

    def make(clips: int, seed: int = 0, windows: int = 1) -> FeatureSet:
        rng = np.random.default_rng(seed)
        clip_index = np.repeat(np.arange(clips), windows)
        labels = (clip_index % 3).astype(np.int64)
        energies = rng.exponential(1.0, (len(labels), task.clip_frames, 12)).astype(np.float32)
        for window, label in zip(energies, labels, strict=True):
            begin = rng.integers(5, task.clip_frames - 10)
            window[begin : begin + 5, 4 * label : 4 * label + 4] *= 300
        energies.flags.writeable = False  # as a memory-mapped file is
        return FeatureSet(energies, labels, clip_index)

    return make


@pytest.fixture(scope="session")
def make_model(task: Task) -> Callable[..., AcousticModel]:
    def make(seed: int = 0) -> AcousticModel:
        return build_model(task, torch.Generator().manual_seed(seed))

    return make
