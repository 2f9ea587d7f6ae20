"""Gradients on the grid: exact sums, a bound that always holds, and noise of the scale that was asked for."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import stats

from common.privacy.grid import SIGMA, Grid
from common.privacy.secure_random import SecureRandom

KEY = bytes(range(32))
multipliers = st.floats(0.01, 1000)
norms = st.floats(1e-3, 1e3)
rows_of_anything = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=12))


def integers(total: torch.Tensor) -> list[int]:
    assert torch.equal(total, total.trunc())
    return [int(value) for value in total]


@given(multipliers, norms, rows_of_anything)
@settings(deadline=None)
def test_no_row_moves_the_total_further_than_the_bound(
    multiplier: float, norm: float, rows: np.ndarray
) -> None:
    """Whatever is in it, longer rows and broken numbers too; in exact integers."""
    grid = Grid(multiplier, norm)
    for row in torch.from_numpy(rows):
        square = sum(value**2 for value in integers(grid.total(row[None])))
        assert square * Fraction(multiplier) ** 2 <= Fraction(SIGMA) ** 2


@given(multipliers, norms, st.integers(1, 300), st.integers(0, 2**32))
@settings(deadline=None)
def test_rounding_lengthens_nothing_and_moves_no_value_by_a_step(
    multiplier: float, norm: float, values: int, seed: int
) -> None:
    row = torch.randn(values, generator=torch.Generator().manual_seed(seed))
    row *= norm / row.norm() * 0.999
    grid = Grid(multiplier, norm)
    steps = grid.total(row[None])
    # But for the rounding of one division in float32.
    exact = row.double() / grid.step
    assert (steps.abs() <= exact.abs() * (1 + 2**-22)).all()
    assert ((steps - exact).abs() < 1 + exact.abs() * 2**-22).all()


@pytest.mark.parametrize("beyond", [-1_000_000, -1, 0, 1, 1_000_000])
@pytest.mark.parametrize("multiplier", [5e-4, 0.3, 1.0])
def test_the_bound_is_exact_where_float32_cannot_tell(multiplier: float, beyond: int) -> None:
    """A row of whole steps whose squares add up to the largest sum, or to a little more or less."""
    grid, largest = Grid(multiplier, 1.0), int((Fraction(SIGMA) / Fraction(multiplier)) ** 2)
    wanted = [math.isqrt(largest // 90_001)] * 90_000
    while (rest := largest + beyond - sum(value**2 for value in wanted)) > 0:
        wanted.append(math.isqrt(rest))
    # So little more that a division by the step, rounded towards zero, is sure to give it back.
    row = (torch.tensor(wanted, dtype=torch.float64) * grid.step * (1 + 2e-7)).float()
    total = integers(grid.total(row[None]))
    assert (total == wanted) == (beyond <= 0)
    assert sum(value**2 for value in total) <= largest


@pytest.mark.parametrize("multiplier", [5e-4, 0.02, 1.0])
def test_many_rows_add_up_beyond_what_float32_can_count(multiplier: float) -> None:
    """And are each what they are alone, where float32 is enough."""
    grid = Grid(multiplier, 1.0)
    rows = torch.randn(2, 50, generator=torch.Generator().manual_seed(0))
    rows *= torch.tensor([[0.9], [1.1]]) / rows.norm(dim=1, keepdim=True)
    one_by_one = np.sum([integers(grid.total(row[None])) for row in rows], axis=0)
    assert integers(grid.total(rows.repeat(1200, 1))) == [1200 * int(value) for value in one_by_one]


def test_totals_are_sums_of_rows_to_the_last_unit() -> None:
    rows = torch.randn(300, 500, generator=torch.Generator().manual_seed(0))
    rows /= rows.norm(dim=1, keepdim=True)
    grid = Grid(0.7, 1.0)
    one_by_one = np.sum([integers(grid.total(row[None])) for row in rows], axis=0)
    assert np.array_equal(integers(grid.total(rows)), one_by_one)
    assert torch.equal(grid.total(rows[:100]) + grid.total(rows[100:]), grid.total(rows))
    assert torch.equal(grid.total(rows.flip(0)), grid.total(rows))
    assert not grid.total(rows[:0]).any()


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_row_that_is_not_finite_counts_as_zero(broken: float) -> None:
    rows = torch.full((3, 4), 0.1)
    rows[1, 2] = broken
    grid = Grid(1.0, 1.0)
    assert torch.equal(grid.total(rows), grid.total(rows[[0, 2]]))


def test_a_long_row_is_shortened_not_dropped() -> None:
    grid = Grid(1.0, 1.0)
    total = grid.total(torch.tensor([[30.0, 40.0]]))
    assert (total * grid.step).tolist() == pytest.approx([0.6, 0.8], abs=1e-4)


@pytest.mark.parametrize("parameters", [6_400, 27_000, 95_000])
def test_rounding_shortens_a_gradient_by_little(parameters: int) -> None:
    """By 2 % at most, at a usual multiplier and with the heavy tails of gradients; its direction stays."""
    draws = np.random.default_rng(0).standard_t(3, parameters).astype(np.float32)
    row = torch.from_numpy(draws / np.linalg.norm(draws))
    grid = Grid(1.0, 1.0)
    kept = grid.total(row[None]) * grid.step
    assert 0.98 < float(kept.norm()) <= 1
    assert float(kept @ row.double()) / float(kept.norm()) > 0.999


@pytest.mark.parametrize(("multiplier", "norm"), [(1.0, 1.0), (0.5, 3.0), (8.0, 0.01)])
def test_noise_has_exactly_the_asked_scale(multiplier: float, norm: float) -> None:
    grid, count = Grid(multiplier, norm), 300_000
    noise = grid.noised(torch.zeros(count, dtype=torch.float64), SecureRandom(KEY))
    assert noise.dtype == torch.float32
    assert stats.kstest(noise.numpy(), "norm", args=(0, multiplier * norm)).pvalue > 1e-3
    assert float(noise.std()) == pytest.approx(multiplier * norm, rel=4 / math.sqrt(2 * count))
    in_steps = noise.double() / grid.step
    torch.testing.assert_close(in_steps, in_steps.round(), atol=0.02, rtol=0)


def test_noise_is_added_to_the_total_and_to_every_value_anew() -> None:
    grid, total = Grid(1.0, 1.0), torch.arange(1000, dtype=torch.float64)
    alone = grid.noised(torch.zeros_like(total), SecureRandom(KEY))
    torch.testing.assert_close(grid.noised(total, SecureRandom(KEY)) - alone, (total * grid.step).float())
    assert len(alone.unique()) > 950


def test_steps_and_rounds_do_not_share_noise() -> None:
    grid, random, zero = Grid(1.0, 1.0), SecureRandom(), torch.zeros(100_000, dtype=torch.float64)
    steps = [grid.noised(zero, random) for _ in range(3)]
    next_round = [grid.noised(zero, SecureRandom()) for _ in range(3)]
    together = np.corrcoef(torch.stack(steps + next_round).numpy())
    assert np.abs(together - np.eye(6)).max() < 5 / math.sqrt(100_000)


def test_a_noisy_count_goes_the_same_way() -> None:
    """As adaptive clipping asks, with rows of one half up or down (Andrew et al. 2021)."""
    below = torch.tensor([True] * 30 + [False] * 10)
    grid = Grid(4.0, 0.5)
    total = grid.total((below.float() - 0.5)[:, None])
    random = SecureRandom(KEY)
    counts = [float(grid.noised(total, random)) for _ in range(400)]
    assert np.mean(counts) == pytest.approx(10, abs=4 * 2 / math.sqrt(400))
    assert np.std(counts) == pytest.approx(2, rel=0.2)


def test_moments_on_the_integers_are_those_the_accountant_sums() -> None:
    """E (p1 / p0)^k on the grid, by summation, against exp((k^2 - k) s^2 / 2 sigma^2)."""
    sigma, shift = 16, 11
    x = np.arange(-40 * sigma, 40 * sigma + 1, dtype=np.float64)
    weights = np.exp(-(x**2) / (2 * sigma**2))
    for order in (2, 3, 7, 2.5, 1.1):
        loss = (2 * x * shift - shift**2) / (2 * sigma**2)
        moment = (weights * np.exp(order * loss)).sum() / weights.sum()
        assert moment == pytest.approx(math.exp((order**2 - order) * shift**2 / (2 * sigma**2)), rel=1e-12)
