"""Whole private steps are checked from the outside, and so are the checks: each must reject the bug that it
is there for."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import stats
from torch import Tensor

from common.audio.batch import BatchFrontEnd
from common.data.features import FeatureSet
from common.models.acoustic import AcousticModel
from common.privacy import dp_sgd
from common.privacy.clipping import Clipping
from common.privacy.grid import Grid
from common.privacy.secure_random import SecureRandom
from common.protocol.plan import Augmentation, Privacy, Recipe
from common.training import gradients
from common.training.examples import Augmented
from common.training.gradients import PrivateGradients

STILL = Augmentation(shift_seconds=0, gain_db=0, noise_probability=0, time_masks=0, band_masks=0)
CLIPS, BATCH = 24, 6

Steps = Callable[[float, float, int], list[Tensor]]
Check = Callable[[Steps], None]


@pytest.fixture
def steps(
    front_end: BatchFrontEnd,
    make_toy: Callable[..., FeatureSet],
    make_model: Callable[..., AcousticModel],
) -> Steps:
    """steps(noise_multiplier, clipping_norm, batch): the flat gradients of three rounds of one step."""

    def run(noise: float, norm: float, batch: int) -> list[Tensor]:
        moves = []
        for _ in range(3):
            model, recipe = make_model(), Recipe(batch_size=batch, augmentation=STILL)
            examples = Augmented(front_end, make_toy(CLIPS), STILL, torch.zeros(1))
            privacy = Privacy(noise_multiplier=noise, clipping_norm=norm)
            PrivateGradients(model, examples, recipe, privacy, gradients.SecureRandom()).next_step()
            moves.append(
                torch.cat([value.grad.flatten() for value in model.parameters() if value.grad is not None])
            )
        return moves

    return run


def noise_has_its_scale(steps: Steps) -> None:
    """Noise of 20 clipping norms hides every gradient, so what comes out is the noise."""
    for move in steps(20.0, 0.5, BATCH):
        assert stats.kstest((move * BATCH).numpy(), "norm", args=(0, 20.0 * 0.5)).pvalue > 1e-6


def no_clip_counts_more_than_the_norm(steps: Steps) -> None:
    """All clips are in the step and there is hardly any noise."""
    for move in steps(0.01, 0.05, CLIPS):
        noise = 0.01 * 0.05 * np.sqrt(len(move)) * 1.2
        assert 0 < float(move.norm()) * CLIPS <= CLIPS * 0.05 + noise


def noise_is_never_the_same(steps: Steps) -> None:
    moves = steps(20.0, 0.5, BATCH)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        both = torch.stack((moves[one], moves[other]))
        assert abs(float(torch.corrcoef(both)[0, 1])) < 0.15


def samples_are_poisson(steps: Steps) -> None:
    """The size of a sample varies as a binomial's, and samples that follow each other do overlap."""
    random = SecureRandom()
    drawn = np.zeros((400, CLIPS), bool)
    for row in drawn:
        row[gradients.poisson_sample(CLIPS, BATCH / CLIPS, random)] = True
    assert drawn.sum(axis=1).var() == pytest.approx(CLIPS * 0.25 * 0.75, rel=0.4)
    assert drawn.mean() == pytest.approx(0.25, abs=0.03)
    assert (drawn[1:] & drawn[:-1]).mean() == pytest.approx(0.25**2, abs=0.015)


CHECKS: tuple[Check, ...] = (
    noise_has_its_scale,
    no_clip_counts_more_than_the_norm,
    noise_is_never_the_same,
    samples_are_poisson,
)


@pytest.mark.parametrize("check", CHECKS)
def test_a_private_step_passes(check: Check, steps: Steps) -> None:
    check(steps)


class Half:
    """A clipping whose noise is half of what it says."""

    def __init__(self, clipping: Clipping) -> None:
        self.norm, self.noise_multiplier = clipping.norm, clipping.noise_multiplier / 2
        self.shorten, self.end_step = clipping.shorten, clipping.end_step


def noise_off(rows: Iterable[Tensor], columns: int, clipping: Clipping, random: SecureRandom) -> Tensor:
    total = torch.zeros(columns)
    for part in rows:
        clipping.shorten(part)
        total += part.sum(0)
    return total


def half_sigma(rows: Iterable[Tensor], columns: int, clipping: Clipping, random: SecureRandom) -> Tensor:
    return dp_sgd.private_sum(rows, columns, Half(clipping), random)


def clip_off(rows: Iterable[Tensor], columns: int, clipping: Clipping, random: SecureRandom) -> Tensor:
    noise = Grid(clipping.noise_multiplier, clipping.norm).noised(torch.zeros(columns), random)
    return noise + sum((part.sum(0) for part in rows), torch.zeros(columns))


def noise_before_clip(
    rows: Iterable[Tensor], columns: int, clipping: Clipping, random: SecureRandom
) -> Tensor:
    noised = Grid(clipping.noise_multiplier, clipping.norm).noised(torch.zeros(columns), random)
    parts = [torch.zeros(1, columns), *(part.clone() for part in rows)]
    together = torch.cat(parts) + noised / sum(len(part) for part in parts)
    clipping.shorten(together)
    return together.sum(0)


def same_seed() -> SecureRandom:
    return SecureRandom(bytes(range(32)))


class Shuffled:
    """Fixed batches of a shuffled order, as plain training takes them."""

    def __init__(self) -> None:
        self.rest: list[int] = []

    def __call__(self, units: int, rate: float, random: SecureRandom) -> npt.NDArray[np.int64]:
        if not self.rest:
            self.rest = np.argsort(random.uniform(units)).tolist()
        size = round(units * rate)
        batch, self.rest = self.rest[:size], self.rest[size:]
        return np.array(batch)


@pytest.mark.parametrize(
    ("replaced", "bug", "check"),
    [
        ("private_sum", noise_off, noise_has_its_scale),
        ("private_sum", noise_off, noise_is_never_the_same),
        ("private_sum", half_sigma, noise_has_its_scale),
        ("private_sum", clip_off, no_clip_counts_more_than_the_norm),
        ("private_sum", noise_before_clip, noise_has_its_scale),
        ("SecureRandom", same_seed, noise_is_never_the_same),
        ("poisson_sample", Shuffled(), samples_are_poisson),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_each_seeded_bug_is_rejected_by_its_check(
    replaced: str, bug: object, check: Check, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gradients, replaced, bug)
    with pytest.raises(AssertionError):
        check(steps)
