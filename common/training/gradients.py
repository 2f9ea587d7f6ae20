"""Where the gradient of one step comes from: a shuffled batch, or a private sample of the clips."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import TrainingError
from common.models.acoustic import AcousticModel
from common.privacy.accounting import privacy_spent
from common.privacy.dp_sgd import Gradient, add_noise, clipped_sum, poisson_sample
from common.privacy.secure_random import SecureRandom
from common.protocol.answer import PrivacySpent
from common.protocol.plan import Privacy, Recipe
from common.training.examples import Augmented, Windows, labels_of
from common.training.micro_batch import micro_batch_size


class GradientSource(Protocol):
    """Gives the model's parameters their gradients, step after step."""

    steps_per_epoch: int

    def next_step(self) -> float:
        """Give every parameter that requires one its gradient for one step, and return the mean loss of the
        step's clips."""

    def spent(self, steps: int) -> PrivacySpent | None:
        """What `steps` steps cost, of a private source."""


class PlainGradients:
    """The mean gradient over shuffled batches; each epoch sees every window once."""

    def __init__(
        self, model: AcousticModel, examples: Augmented, recipe: Recipe, generator: torch.Generator
    ) -> None:
        self._model, self._examples, self._recipe, self._generator = model, examples, recipe, generator
        self._size = _micro_batch(model, examples, per_sample_gradients=False)
        self._batches = self._shuffled()
        self.steps_per_epoch = -(-len(examples.data.labels) // recipe.batch_size)

    def next_step(self) -> float:
        """As `GradientSource`.

        Raises:
            TrainingError: FA-7004, the loss is not a finite number.
        """
        batch = next(self._batches)
        features = self._examples.features(batch, self._generator)
        labels = labels_of(self._examples.data, batch)
        total = 0.0
        for part, truth in zip(
            torch.split(features, self._size), torch.split(labels, self._size), strict=True
        ):
            loss = smoothed_loss(self._model(part), truth, self._recipe).sum() / len(batch)
            torch.autograd.backward(loss)
            total += loss.item()
        if not math.isfinite(total):
            raise diverged("The loss became infinite or not a number.")
        return total

    def spent(self, steps: int) -> None:
        """Nothing is accounted for: nothing is private."""

    def _shuffled(self) -> Iterator[Windows]:
        while True:
            order = torch.randperm(len(self._examples.data.labels), generator=self._generator)
            for batch in torch.split(order, self._recipe.batch_size):
                yield batch.numpy()


class PrivateGradients:
    """The noised mean of clipped per-clip gradients over Poisson samples (DP-SGD, Abadi et al. 2016)."""

    def __init__(
        self,
        model: AcousticModel,
        examples: Augmented,
        recipe: Recipe,
        privacy: Privacy,
        random: SecureRandom,
    ) -> None:
        self._model, self._examples, self._recipe = model, examples, recipe
        self._privacy, self._random = privacy, random
        self._size = _micro_batch(model, examples, per_sample_gradients=True)
        clip_index = examples.data.clip_index
        self._windows_of_clips = [np.flatnonzero(clip_index == clip) for clip in np.unique(clip_index)]
        clips = len(self._windows_of_clips)
        self._sampling_rate = min(1.0, recipe.batch_size / clips)
        self.steps_per_epoch = -(-clips // recipe.batch_size)

    def next_step(self) -> float:
        """As `GradientSource`. The loss is exact, hence not private: it must not leave the device."""
        clips = poisson_sample(len(self._windows_of_clips), self._sampling_rate, self._random)
        trained = {name: value for name, value in self._model.named_parameters() if value.requires_grad}
        total: Gradient = {name: torch.zeros_like(value) for name, value in trained.items()}
        loss = 0.0
        for start in range(0, len(clips), self._size):
            features, labels = self._one_window_each(clips[start : start + self._size])
            part, part_loss = clipped_sum(
                self._model, features, labels, self._loss, self._privacy.clipping_norm
            )
            loss += part_loss
            total = {name: value + part[name] for name, value in total.items()}
        deviation = self._privacy.noise_multiplier * self._privacy.clipping_norm
        noised = add_noise(total, deviation, self._random)
        # Divided by the expected number of clips: the actual one is as private as the clips.
        expected = self._sampling_rate * len(self._windows_of_clips)
        for name, value in trained.items():
            value.grad = noised[name] / expected
        return loss / max(1, len(clips))

    def spent(self, steps: int) -> PrivacySpent:
        """As `GradientSource`.

        Raises:
            TrainingError: FA-7005, the noise is too small.
        """
        return privacy_spent(self._privacy, self._sampling_rate, steps)

    def _one_window_each(self, clips: Windows) -> tuple[Tensor, Tensor]:
        """Features and label of one window of each clip.

        Each clip has a generator of its own. From a shared one, a clip's presence would change what is drawn
        for the clips after it, and so the sum by more than the clipping norm.
        """
        windows, features = [], []
        for clip in clips:
            generator = torch.Generator().manual_seed(self._random.seed())
            choices = self._windows_of_clips[clip]
            window = choices[[int(torch.randint(len(choices), (), generator=generator))]]
            windows.append(window)
            features.append(self._examples.features(window, generator))
        return torch.cat(features), labels_of(self._examples.data, np.concatenate(windows))

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return smoothed_loss(logits, labels, self._recipe)


def smoothed_loss(logits: Tensor, labels: Tensor, recipe: Recipe) -> Tensor:
    """Cross-entropy (B,) with label smoothing (Szegedy et al. 2016)."""
    return F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing, reduction="none")


def diverged(happened: str) -> TrainingError:
    """The error of a training that ran away."""
    return TrainingError("FA-7004", happened, "Lower the learning rate in the recipe.")


def _micro_batch(model: AcousticModel, examples: Augmented, *, per_sample_gradients: bool) -> int:
    frames, features = examples.data.energies.shape[1], examples.front_end.config.features
    return micro_batch_size(model, frames, features, per_sample_gradients=per_sample_gradients)
