"""The local training loop, plain or private."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from common.algorithms.algorithm import Part
from common.audio.batch import BatchFrontEnd
from common.data.features import FeatureSet
from common.errors import TrainingError
from common.models.acoustic import AcousticModel, trained_part
from common.models.weights import live_weights
from common.privacy.secure_random import SecureRandom
from common.protocol.answer import PrivacySpent
from common.protocol.plan import Privacy, Recipe
from common.training.averaging import WeightAverage
from common.training.examples import Augmented, Negatives
from common.training.gradients import GradientSource, PlainGradients, PrivateGradients, diverged
from common.training.micro_batch import keep_freed_memory
from common.training.noise import noises_for, sounds_for
from common.training.optimizers import optimizer_for

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainReport:
    """What a training did.

    Args:
        loss: mean over the steps of the mean cross-entropy of each step's clips; exact even of a private
            training.
        steps: optimiser steps taken.
        clips: windows learned from.
        privacy: what it cost, of a private training.
    """

    loss: float
    steps: int
    clips: int
    privacy: PrivacySpent | None = None


def train(
    model: AcousticModel,
    front_end: BatchFrontEnd,
    data: FeatureSet,
    recipe: Recipe,
    generator: torch.Generator,
    *,
    nothing: int | None = None,
    noise: FeatureSet | None = None,
    noise_seed: int = 0,
    privacy: Privacy | None = None,
    before_spending: Callable[[PrivacySpent], None] | None = None,
    part: Part | None = None,
    test_random: SecureRandom | None = None,
) -> TrainReport:
    """Train `model` in place on `data` as `recipe` says.

    With `privacy` each step samples, clips and noises (DP-SGD) instead of going through shuffled batches, and
    `recipe.gradient_clip` does not apply, for every clip's gradient is clipped already. What depends on the
    weights alone (the algorithm's and L1 terms, weight decay, momentum, their moving average) acts after the
    noise and costs no privacy.

    Args:
        generator: batch order and augmentation; a private training does not look at it.
        nothing: the label for a sound that is none of the others, if the task has one: then
            `recipe.negatives` windows are made of each, and noise is heard before each.
        noise: recordings to mix in; synthetic noise otherwise.
        noise_seed: of synthetic noise; all who train with the same one mix in the same.
        before_spending: told what a private training will cost, before its first step; it may raise. No
            training is private without it: `uncounted` where there is no ledger.
        part: what the recipe's algorithm makes of it, of a device in a round.
        test_random: replaces the operating system's randomness in a private training, for tests only.

    Raises:
        TrainingError: FA-7003 there are no clips, FA-7004 the training diverged, FA-7005 the privacy noise is
            too small, FA-7006 the noise is of another task, FA-7020 the model cannot learn privately,
            FA-7021 the unit of privacy of some clips is not known.
        ValueError: the training is private, and nobody is told what it costs.
    """
    if privacy is not None and before_spending is None:
        raise ValueError("nobody is told what a private training costs")
    if len(data.labels) == 0:
        raise TrainingError(
            "FA-7003", "There are no clips to learn from.", "Import clips with the task's labels."
        )
    keep_freed_memory()
    everything = dict(model.named_parameters())
    trained = trained_part(recipe.trained, everything)
    # An algorithm may have frozen others in an earlier training, which may have failed.
    for name, one in everything.items():
        one.requires_grad_(name in trained)
    examples = _examples(model, front_end, data, recipe, nothing, noise, noise_seed)
    source: GradientSource = (
        PlainGradients(model, examples, recipe, generator)
        if privacy is None
        else PrivateGradients(model, examples, recipe, privacy, test_random or SecureRandom())
    )
    steps = recipe.passes * source.steps_per_epoch if recipe.steps is None else recipe.steps
    if steps == 0:
        logger.info("the recipe asks for no steps; the weights stay as they are")
    spent = source.spent(steps)
    if spent is not None and before_spending is not None:
        before_spending(spent)
    optimizer = optimizer_for(model, recipe)
    parameters = optimizer.parameters
    average = WeightAverage(parameters, privacy.average if privacy else 0.0)
    losses = []
    for step in range(steps):
        if part is not None:
            part.before_step(step, steps)
        for value in parameters:
            value.grad = None
        losses.append(source.next_step())
        if part is not None:
            part.correct_gradients()
        if recipe.l1:
            _add_l1(parameters, recipe.l1)
        if privacy is None and recipe.gradient_clip:
            nn.utils.clip_grad_norm_(parameters, recipe.gradient_clip)
        optimizer.step()
        average.add()
    average.use()
    if not np.isfinite(np.concatenate([value.ravel() for value in live_weights(model).values()])).all():
        raise diverged("A weight became infinite or not a number.")
    return TrainReport(sum(losses) / max(1, steps), steps, len(data.labels), spent)


def _examples(
    model: AcousticModel,
    front_end: BatchFrontEnd,
    data: FeatureSet,
    recipe: Recipe,
    nothing: int | None,
    noise: FeatureSet | None,
    seed: int,
) -> Augmented:
    changes = recipe.augmentation
    if nothing is None or recipe.negatives == 0:
        return Augmented(front_end, data, changes, noises_for(front_end, data, changes, noise, seed))
    negatives = Negatives(nothing, recipe.negatives, sounds_for(front_end, data, seed))
    noises = noises_for(front_end, data, changes, noise, seed, in_places=True)
    return Augmented(front_end, data, changes, noises, negatives, hears_before=model.streaming)


def uncounted(cost: PrivacySpent) -> None:
    """Told what a private training costs where nobody keeps a ledger: of simulated devices, of one's own."""


@torch.no_grad()
def _add_l1(parameters: list[nn.Parameter], penalty: float) -> None:
    """Add the gradient of penalty * |w|.

    Norms and biases are spared: they are few, and at zero they silence a channel rather than a connection.
    """
    for value in parameters:
        if value.grad is not None and value.dim() > 1:
            value.grad.add_(value.sign(), alpha=penalty)
