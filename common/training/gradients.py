"""Where the gradient of one step comes from: a shuffled batch, or a private sample of the clips."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.data.features import Windows
from common.errors import TrainingError
from common.models.acoustic import AcousticModel
from common.privacy.accounting import privacy_spent
from common.privacy.clipping import clipping_for
from common.privacy.dp_sgd import poisson_sample, private_sum
from common.privacy.engines.engine import trained
from common.privacy.engines.registry import engine_for
from common.privacy.secure_random import SecureRandom
from common.privacy.units import units_of
from common.protocol.answer import PrivacySpent
from common.protocol.plan import Privacy, Recipe
from common.training.examples import Augmented
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
        features, labels = self._examples.batch(batch, self._generator)
        total = 0.0
        for part, truth in zip(
            torch.split(features, self._size), torch.split(labels, self._size), strict=True
        ):
            loss = smoothed_loss(self._model(part), truth, self._recipe).sum() / len(labels)
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
    """The noised mean of clipped gradients over Poisson samples of units (DP-SGD, Abadi et al. 2016).

    A unit of many clips brings at most `clips_each` of them into a step, drawn anew each time, so that a step
    is about `recipe.batch_size` clips of work whatever the unit is. A clip brings one window, seen in
    `privacy.views` ways whose gradients are averaged (De et al. 2022); those of a unit's clips are summed.
    What is made of a clip that is no word is a further view of it, and made of no other clip.

    Raises:
        TrainingError: FA-7020 the model mixes clips, FA-7021 the unit of some clips is not known.
    """

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
        self._units = units_of(examples.data, privacy.unit)
        # Where the plan says how many units there are, nothing that leaves the device depends on how many.
        units = privacy.units or len(self._units)
        self._sampling_rate = min(1.0, recipe.batch_size / units)
        self._expected = self._sampling_rate * units
        self.clips_each = math.ceil(recipe.batch_size / self._expected)
        clips = privacy.units or sum(len(clips) for clips in self._units.clips)
        self.steps_per_epoch = -(-clips // recipe.batch_size)
        made = examples.negatives.each if examples.negatives else 0
        self._views = privacy.views * (1 + made)
        self._clipping = clipping_for(privacy, model, self._expected)
        self._engine = engine_for(privacy.engine, model, self._loss, *examples.shape)
        self._size = _micro_batch(model, examples, per_sample_gradients=True)

    def next_step(self) -> float:
        """As `GradientSource`. The loss is exact, hence not private: it must not leave the device."""
        parameters = trained(self._model)
        sizes = [value.numel() for value in parameters]
        losses: list[Tensor] = []
        drawn = poisson_sample(len(self._units), self._sampling_rate, self._random)
        noised = private_sum(self._rows(drawn, losses), sum(sizes), self._clipping, self._random)
        # Divided by the expected number of units: the actual one is as private as the clips.
        noised /= self._expected
        for value, gradient in zip(parameters, torch.split(noised, sizes), strict=True):
            value.grad = gradient.view_as(value)
        seen = torch.cat([torch.empty(0), *losses])
        return float(seen[seen.isfinite()].sum()) / max(1, len(seen))

    def spent(self, steps: int) -> PrivacySpent:
        """As `GradientSource`.

        Raises:
            TrainingError: FA-7005, the noise is too small.
        """
        return privacy_spent(self._privacy, self._sampling_rate, steps)

    def _rows(self, units: Windows, losses: list[Tensor]) -> Iterator[Tensor]:
        """Gradients of `units`, each one row, in parts; what the clips' losses are is added to `losses`."""
        drawn = [self._units.draw(unit, self.clips_each, self._random) for unit in units]
        together = max(1, self._size // (self.clips_each * self._views))
        for start in range(0, len(drawn), together):
            windows = drawn[start : start + together]
            owners = np.repeat(np.arange(len(windows)), [len(own) for own in windows])
            yield self._rows_of_units(np.concatenate(windows), torch.from_numpy(owners), len(windows), losses)

    def _rows_of_units(self, windows: Windows, owners: Tensor, units: int, losses: list[Tensor]) -> Tensor:
        """Gradients (units, P): of `windows`, of which each belongs to the unit that `owners` says."""
        views, sums = self._views, torch.empty(0)
        most = max(1, self._size // views)
        for start in range(0, len(windows), most):
            part = windows[start : start + most]
            rows, part_losses = self._rows_in_company(*self._views_of(part))
            losses.append(part_losses)
            if views == 1 and len(windows) == units <= most:
                return rows
            if start == 0:
                sums = rows.new_zeros(units, rows.shape[1])
            sums.index_add_(0, owners[start : start + most].repeat_interleave(views), rows, alpha=1 / views)
        return sums

    def _rows_in_company(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and losses of the engine, which never sees a sample alone.

        For a batch of one, torch takes other kernels, which round otherwise. Whoever picks the weights can
        make of that a row which moves by more than the clipping norm when another unit is added.
        """
        if len(labels) > 1:
            return self._engine.rows(features, labels)
        rows, losses = self._engine.rows(features.repeat(2, 1, 1), labels.repeat(2))
        return rows[: len(labels)], losses[: len(labels)]

    def _views_of(self, windows: Windows) -> tuple[Tensor, Tensor]:
        """Features and labels of the views of `windows`.

        Each window has a generator of its own. From a shared one, a clip's presence would change what is
        drawn for the clips after it, and so the sum by more than the clipping norm.
        """
        generators = (torch.Generator().manual_seed(self._random.seed()) for _ in windows)
        return self._examples.views(windows, self._privacy.views, generators)

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return smoothed_loss(logits, labels, self._recipe)


def smoothed_loss(logits: Tensor, labels: Tensor, recipe: Recipe) -> Tensor:
    """Cross-entropy (B,) with label smoothing (Szegedy et al. 2016)."""
    return F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing, reduction="none")


def diverged(happened: str) -> TrainingError:
    """The error of a training that ran away."""
    return TrainingError("FA-7004", happened, "Lower the learning rate in the recipe.")


def _micro_batch(model: AcousticModel, examples: Augmented, *, per_sample_gradients: bool) -> int:
    return micro_batch_size(model, *examples.shape, per_sample_gradients=per_sample_gradients)
