"""No update counts for more than the usual length, and clipping a mean costs no memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.protocol.tensors import norm
from fl_server.rules.mean import ExactMean
from fl_server.rules.norm_clipping import usual_norm
from fl_server.settings import RuleName
from tests.fl_server.rules.made_rules import RULES, combine, fold, honest_rows, rule_for, settings_for

seeds = st.integers(0, 2**32 - 1)


@given(seed=seeds, factor=st.floats(0.1, 3), usual=st.floats(0.01, 10), lengths=st.floats(0.01, 100))
def test_a_mean_of_clipped_updates_is_no_longer_than_the_limit(
    seed: int, factor: float, usual: float, lengths: float
) -> None:
    rows = np.float32(lengths) * honest_rows(5, 8, seed)
    result = combine(settings_for(clipping=factor), rows, norms=[usual])
    assert norm(result) <= 1.0001 * factor * usual


@given(seed=seeds)
def test_short_updates_are_left_alone(seed: int) -> None:
    rows = honest_rows(5, 8, seed)
    longest = max(map(norm, rows))
    clipped = combine(settings_for(clipping=1.0), rows, norms=[1.01 * longest])
    assert clipped.tobytes() == combine(settings_for(), rows).tobytes()


def test_a_long_update_is_scaled_and_not_cut() -> None:
    rows = np.array([[3, 4], [0, 0], [0, 0], [0, 0]], np.float32)
    result = combine(settings_for(clipping=1.0), rows, norms=[1.0])
    np.testing.assert_allclose(result, [0.15, 0.2], rtol=1e-6)


def test_the_limit_follows_the_median_of_earlier_rounds() -> None:
    rows = np.array([[100, 0]], np.float32)
    result = combine(settings_for(clipping=2.0), rows, norms=[1.0, 50.0, 3.0])
    np.testing.assert_allclose(result, [6, 0], rtol=1e-6)


@pytest.mark.parametrize("norms", [[], [0.0, 0.0]], ids=["none", "zeros"])
def test_in_the_first_round_the_limit_is_that_of_its_own_updates(norms: list[float]) -> None:
    rows = np.array([[1, 0], [1, 0], [50, 0]], np.float32)
    result = combine(settings_for(clipping=2.0), rows, norms=norms)
    np.testing.assert_allclose(result, [4 / 3, 0], rtol=1e-6)


def test_of_two_devices_neither_can_raise_the_limit_alone() -> None:
    rows = np.array([[1, 0], [50, 0]], np.float32)
    np.testing.assert_allclose(combine(settings_for(clipping=1.0), rows), [1, 0], rtol=1e-6)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=20))
def test_the_usual_norm_is_one_that_half_of_the_devices_reach(norms: list[float]) -> None:
    usual = usual_norm(norms)
    assert usual in norms
    assert 2 * sum(norm >= usual for norm in norms) > len(norms)
    assert 2 * sum(norm <= usual for norm in norms) >= len(norms)
    assert usual == usual_norm(norms[::-1])


def test_where_most_send_nothing_nothing_is_the_limit() -> None:
    rows = np.array([[0, 0], [0, 0], [50, 0]], np.float32)
    np.testing.assert_array_equal(combine(settings_for(clipping=2.0), rows), [0, 0])


def test_weights_count_in_a_clipped_mean_too() -> None:
    rows = np.array([[1, 0], [0, 1], [0, 9]], np.float32)
    chosen = settings_for(clipping=1.0, weighting="clips")
    result = fold(rule_for(chosen, rows, norms=[]), rows, weights=[6, 1, 1])
    np.testing.assert_allclose(result, [6 / 8, 2 / 8], rtol=1e-6)


@pytest.mark.parametrize("rule", RULES)
@given(seed=seeds)
def test_the_first_round_is_clipped_as_a_later_one_with_that_limit(rule: RuleName, seed: int) -> None:
    rows, chosen = honest_rows(9, 12, seed), settings_for(rule, clipping=1.0)
    usual = float(np.median([norm(row) for row in rows]))
    first, later = combine(chosen, rows), combine(chosen, rows, norms=[usual])
    assert first.tobytes() == later.tobytes()


def test_a_clipped_mean_needs_no_more_memory_for_more_updates() -> None:
    values = 500_000
    row = np.full(values, 1e-3, np.float32)
    tracemalloc.start()
    try:
        rule = rule_for(settings_for(clipping=1.0), row[None], asked=50, norms=[0.1])
        rule.fold(row, 1, device="first", norm=norm(row))
        tracemalloc.reset_peak()
        held, _ = tracemalloc.get_traced_memory()
        for device in range(40):
            rule.fold(row, 1, device=str(device), norm=norm(row))
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after == pytest.approx(held, rel=0.01)
    assert peak - held < 1.2 * row.nbytes  # the scaled update


def test_held_back_updates_go_over_into_a_rule_that_keeps_them() -> None:
    rows = np.random.default_rng(0).normal(size=(40, 200_000)).astype(np.float32)
    rule = rule_for(settings_for("median", clipping=2.0), rows)
    tracemalloc.start()
    try:
        for place, row in enumerate(rows):
            rule.fold(row, 1, device=str(place), norm=norm(row))
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        rule.result()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held == pytest.approx(rows.nbytes, rel=0.01)
    assert peak < 1.3 * rows.nbytes


def test_a_plain_mean_without_clipping_is_as_it_was() -> None:
    assert isinstance(rule_for(settings_for(), honest_rows(3, 4, 0)), ExactMean)
