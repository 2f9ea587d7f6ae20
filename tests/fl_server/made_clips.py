"""Clips that a small model learns in a second: each label is a tone of its own, and chirps are about."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from common.audio.batch import BatchFrontEnd
from common.audio.front_end import SAMPLE_RATE, LogMel
from common.data.features import FeatureSet
from common.models.registry import build_model
from common.models.weights import get_weights, set_weights
from common.protocol.plan import Augmentation, Recipe
from common.protocol.tensors import Weights
from common.task import Task
from common.training.trainer import train

TASK = Task(
    labels=("low", "middle", "high"),
    front_end=LogMel(bands=16, hop=320, window=512),
    architecture="ds-cnn",
    width=8,
    clip_seconds=0.6,
)
PLAIN = Recipe(
    learning_rate=0.004,
    epochs=6,
    augmentation=Augmentation(shift_seconds=0, gain_db=0, noise_probability=0, time_masks=0, band_masks=0),
)
FRONT_END = BatchFrontEnd(TASK.front_end)
HERTZ = (300, 1200, 5000)
Sound = NDArray[np.float64]


def made_clips(count: int, seed: int = 0, extra: Sound | None = None) -> FeatureSet:
    """`count` clips, labels in turn; with `extra`, that sound is somewhere in each of them.

    Chirps in half of all clips teach a model that not every short sound means something.
    """
    random = np.random.default_rng(seed)
    labels = np.arange(count) % len(HERTZ)
    sounds = random.normal(size=(count, TASK.clip_samples)) * 0.02
    time = np.arange(TASK.clip_samples // 2) / SAMPLE_RATE
    for sound, label in zip(sounds, labels, strict=True):
        hertz = HERTZ[label] * random.uniform(0.9, 1.1)
        _add(sound, 0.1 * np.sin(2 * np.pi * hertz * time), random)
        if random.random() < 0.5:
            _add(sound, 0.1 * _chirp(*random.uniform(200, 7000, 2)), random)
        if extra is not None:
            _add(sound, 0.15 * extra, random)
    energies = FRONT_END.energies(torch.from_numpy(sounds.astype(np.float32))).numpy()
    return FeatureSet(energies, labels, np.arange(count))


def _add(sound: Sound, other: Sound, random: np.random.Generator) -> None:
    start = random.integers(len(sound) - len(other) + 1)
    sound[start : start + len(other)] += other


def _chirp(start: float, end: float) -> Sound:
    time = np.arange(SAMPLE_RATE // 10) / SAMPLE_RATE
    return np.hanning(len(time)) * np.sin(2 * np.pi * (start * time + 5 * (end - start) * time**2))


def new_weights(seed: int = 0) -> Weights:
    """Of a model that has learned nothing."""
    return get_weights(build_model(TASK, torch.Generator().manual_seed(seed)))


def trained(weights: Weights, clips: FeatureSet, epochs: int = 6, seed: int = 0) -> Weights:
    """What `weights` become by `clips`."""
    model = build_model(TASK, torch.Generator())
    set_weights(model, weights)
    recipe = PLAIN.model_copy(update={"epochs": epochs})
    train(model, FRONT_END, clips, recipe, torch.Generator().manual_seed(seed))
    return get_weights(model)
