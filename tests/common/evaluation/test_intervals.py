"""Intervals, against scipy's and against what they promise."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from common.evaluation.intervals import garwood, wilson


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_scipys(counts: tuple[int, int]) -> None:
    hits, trials = counts
    reference = stats.binomtest(hits, trials).proportion_ci(0.95, method="wilson")
    found = wilson(hits, trials)
    assert found.low == pytest.approx(reference.low, abs=1e-9)
    assert found.high == pytest.approx(reference.high, abs=1e-9)
    assert 0 <= found.low <= hits / trials <= found.high <= 1


@given(st.integers(0, 5000), st.floats(0.01, 1000))
def test_garwood_is_the_chi_squared_interval(events: int, hours: float) -> None:
    found = garwood(events, hours)
    low = stats.chi2.ppf(0.025, 2 * events) / 2 if events else 0.0
    assert found.low == pytest.approx(low / hours, rel=1e-9)
    assert found.high == pytest.approx(stats.chi2.ppf(0.975, 2 * (events + 1)) / 2 / hours, rel=1e-9)
    assert found.low <= events / hours <= found.high


@pytest.mark.parametrize("rate", [0.5, 2.0, 7.5])
def test_garwood_holds_the_true_rate_at_least_as_often_as_it_says(rate: float) -> None:
    found = {events: garwood(events, 1.0) for events in range(100)}
    held = sum(
        stats.poisson.pmf(events, rate) for events, (low, high) in found.items() if low <= rate <= high
    )
    assert held >= 0.95


def test_nothing_heard_is_nothing_known() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    assert garwood(0, 0.0) == (0.0, math.inf)
    assert garwood(0, 10.0).high == pytest.approx(0.3689, abs=1e-4)
