"""Clips that a small model learns in a second: noise that swells and fades, faster or slower by its label.

No short sound mixed in is like any of the labels, as little as a beep is like a word.
"""

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
    labels=("slow", "middle", "fast"),
    front_end=LogMel(bands=16, hop=320, window=512),
    architecture="ds-cnn",
    width=16,
    clip_seconds=0.6,
)
PLAIN = Recipe(
    learning_rate=0.004,
    epochs=6,
    augmentation=Augmentation(shift_seconds=0, gain_db=0, noise_probability=0, time_masks=0, band_masks=0),
)
FRONT_END = BatchFrontEnd(TASK.front_end)
SWELLS_HERTZ = (3, 7, 16)
Sound = NDArray[np.float64]


def made_sounds(count: int, seed: int = 0, extra: Sound | None = None) -> Sound:
    """Samples of `count` clips, labels in turn; with `extra`, that sound is somewhere in each of them."""
    random = np.random.default_rng(seed)
    sounds = 0.05 * random.normal(size=(count, TASK.clip_samples))
    time = np.arange(TASK.clip_samples) / SAMPLE_RATE
    for number in range(count):
        turns = SWELLS_HERTZ[number % len(SWELLS_HERTZ)] * random.uniform(0.9, 1.1) * time + random.random()
        sounds[number] *= 1.05 + np.sin(2 * np.pi * turns)
        if extra is not None:
            start = random.integers(len(time) - len(extra) + 1)
            sounds[number, start : start + len(extra)] += 0.2 * extra
    return sounds


def made_clips(count: int, seed: int = 0, extra: Sound | None = None) -> FeatureSet:
    """The same, ready to train on."""
    sounds = torch.from_numpy(made_sounds(count, seed, extra).astype(np.float32))
    places = np.arange(count)
    return FeatureSet(FRONT_END.energies(sounds).numpy(), places % len(SWELLS_HERTZ), places)


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
