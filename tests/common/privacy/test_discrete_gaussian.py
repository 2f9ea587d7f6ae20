"""The sampler gives the discrete Gaussian: by exact sums, by statistics, and where 64 bits are too few."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from mpmath import exp, mp, mpf
from numpy.typing import NDArray
from scipy import stats

from common.privacy.discrete_gaussian import (
    ERROR,
    LARGEST_SIGMA,
    DiscreteGaussian,
    _weights,
    discrete_gaussian,
)
from common.privacy.grid import SIGMA
from common.privacy.secure_random import SecureRandom

KEY = bytes(range(32))
DRAWS = 400_000
LARGE = int(SIGMA)


def noise(sigma: int = LARGE, count: int = DRAWS, key: bytes = KEY) -> NDArray[np.int32]:
    return discrete_gaussian(sigma).draw(count, SecureRandom(key))


def probabilities(sigma: int, reach: int) -> NDArray[np.float64]:
    """Of -reach..reach, written from the definition."""
    values = np.arange(-40 * sigma, 40 * sigma + 1)
    weights = np.exp(-(values**2) / (2.0 * sigma**2))
    return (weights / weights.sum())[40 * sigma - reach : 40 * sigma + reach + 1]


@pytest.mark.parametrize("sigma", [1, 2, 7, 30])
def test_every_integer_comes_as_often_as_it_should(sigma: int) -> None:
    draws, reach = noise(sigma), 3 * sigma
    expected = probabilities(sigma, reach)
    counted = np.bincount(draws[np.abs(draws) <= reach] + reach, minlength=2 * reach + 1)
    beyond, rest = DRAWS - counted.sum(), 1 - expected.sum()
    test = stats.chisquare([*counted, beyond], [*(DRAWS * expected), DRAWS * rest])
    assert test.pvalue > 1e-3


def test_at_the_one_deviation_of_the_grid_it_is_as_good_as_the_continuous_one() -> None:
    draws = noise()
    # Half a step either way makes a continuous variable of it.
    spread = draws + np.random.default_rng(0).uniform(-0.5, 0.5, DRAWS)
    assert stats.kstest(spread, "norm", args=(0, LARGE)).pvalue > 1e-3
    assert draws.std() == pytest.approx(LARGE, rel=4 / math.sqrt(2 * DRAWS))
    assert abs(draws.mean()) < 4 * LARGE / math.sqrt(DRAWS)
    assert abs(stats.skew(draws)) < 4 * math.sqrt(6 / DRAWS)
    assert abs(stats.kurtosis(draws)) < 4 * math.sqrt(24 / DRAWS)


def test_wrong_noise_would_be_noticed() -> None:
    """The same test, of noise one per cent too small."""
    spread = 0.99 * noise() + np.random.default_rng(0).uniform(-0.5, 0.5, DRAWS)
    assert stats.kstest(spread, "norm", args=(0, LARGE)).pvalue < 1e-3


@pytest.mark.parametrize("sigmas", [1, 2, 3, 4])
def test_tails_are_as_heavy_as_they_should_be(sigmas: int) -> None:
    draws = np.concatenate([noise(key=bytes([key]) * 32) for key in range(5)])
    for tail in (draws > sigmas * LARGE, draws < -sigmas * LARGE):
        low, high = stats.binom.ppf([1e-4, 1 - 1e-4], len(draws), stats.norm.sf(sigmas))
        assert low <= tail.sum() <= high


def test_low_bits_are_as_random_as_the_rest() -> None:
    """A sum cannot be told by the spacing of the numbers it may be."""
    counts = np.bincount(noise() & 255, minlength=256)
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("lag", [1, 2, 1000, DRAWS // 2])
def test_draws_of_one_stream_are_independent(lag: int) -> None:
    draws = noise()
    assert abs(np.corrcoef(draws[:-lag], draws[lag:])[0, 1]) < 4 / math.sqrt(DRAWS - lag)
    assert abs(np.corrcoef(np.abs(draws[:-lag]), np.abs(draws[lag:]))[0, 1]) < 4 / math.sqrt(DRAWS - lag)


def test_two_trainings_never_share_noise() -> None:
    first, second = noise(key=os.urandom(32)), noise(key=os.urandom(32))
    assert abs(np.corrcoef(first, second)[0, 1]) < 4.5 / math.sqrt(DRAWS)
    assert (first == second).mean() < 1e-3


def test_a_restart_does_not_repeat_noise() -> None:
    """Two processes, with the same seeds of everything that has one."""
    program = (
        "import numpy, random; numpy.random.seed(0); random.seed(0)\n"
        "from common.privacy.discrete_gaussian import discrete_gaussian\n"
        "from common.privacy.secure_random import SecureRandom\n"
        "print(discrete_gaussian(1000).draw(8, SecureRandom()).tolist())"
    )
    first, second = (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    )
    assert first.startswith("[")
    assert first != second


@pytest.mark.parametrize("sigma", [1, 5, 64])
def test_weights_are_exact_far_beyond_what_the_stated_error_needs(sigma: int) -> None:
    mp.prec = 600
    weights = list(_weights(sigma))
    truth = [exp(-(mpf(k) ** 2) / (2 * sigma**2)) for k in range(len(weights) + 20 * sigma)]
    wrong = [abs(mpf(weight) / 2**256 - true) for weight, true in zip(weights, truth, strict=False)]
    # Both sides of the distribution, the weights that are left out, and the sum that all are divided by.
    assert 2 * (sum(wrong) + sum(truth[len(weights) :])) < ERROR / 2


def test_weights_of_the_largest_sigma_are_exact_too() -> None:
    mp.prec = 600
    for k, weight in enumerate(_weights(LARGEST_SIGMA)):
        if k % 100_003 == 0:
            true = exp(-(mpf(k) ** 2) / (2 * LARGEST_SIGMA**2))
            assert abs(mpf(weight) / 2**256 - true) < mpf(2) ** (41 - 256)


class Words(SecureRandom):
    """A stream that begins with chosen words."""

    def __init__(self, *words: int) -> None:
        super().__init__(KEY)
        self._words = list(words)

    def words(self, count: int) -> NDArray[np.uint64]:
        chosen, self._words = self._words[:count], self._words[count:]
        return np.concatenate((np.array(chosen, np.uint64), super().words(count - len(chosen))))


def distribution(sigma: int) -> list[Fraction]:
    """P(X <= k) for k = -10..10, in fractions, from weights to 600 bits."""
    mp.prec = 600
    weights = {k: int(exp(-(mpf(k) ** 2) / (2 * sigma**2)) * mpf(2) ** 500) for k in range(-40, 41)}
    total = sum(weights.values())
    return [Fraction(sum(w for k, w in weights.items() if k <= at), total) for at in range(-10, 11)]


@pytest.mark.parametrize("sigma", [1, 2])
def test_a_word_that_equals_a_bound_is_decided_by_more_bits(sigma: int) -> None:
    """P(X <= k) lies within one 64-bit word; 192 bits more say on which side the draw is."""
    sampler = discrete_gaussian(sigma)
    for at, bound in zip(range(-10, 11), distribution(sigma), strict=True):
        bits = int(bound * 2**256)
        for beside, expected in ((-1000, at), (1000, at + 1)):
            near = bits + beside
            word, rest = near >> 192, [near >> shift & 2**64 - 1 for shift in (0, 64, 128)]
            assert sampler.draw(1, Words(word, *rest))[0] == expected


def test_words_around_a_bound_fall_on_its_two_sides() -> None:
    sampler = discrete_gaussian(3)
    words = [int(bound) for bound in sampler._bounds[20:40]]
    drawn = [int(sampler.draw(1, Words(word + beside))[0]) for word in words for beside in (-1, 1)]
    places = range(20 - 30, 40 - 30)
    assert drawn == [value for place in places for value in (place, place + 1)]


def test_the_fastest_way_finds_what_a_search_finds() -> None:
    words = SecureRandom(KEY).words(DRAWS)
    sampler = discrete_gaussian(LARGE)
    searched = np.searchsorted(sampler._bounds, words, side="right") - len(sampler._bounds) // 2
    assert np.array_equal(noise(), searched)


def test_a_sampler_has_limits() -> None:
    for sigma in (0, LARGEST_SIGMA + 1):
        with pytest.raises(ValueError, match="outside"):
            DiscreteGaussian(sigma)
    assert len(noise(count=0)) == 0
