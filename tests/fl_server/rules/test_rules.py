"""What every rule promises, whatever the updates are."""

from __future__ import annotations

import random
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.protocol.tensors import BLOCK
from fl_server.rules.geometry import direction_distances
from fl_server.rules.mixing import mix
from fl_server.rules.rule import Rows
from fl_server.settings import Mixing, RuleName
from tests.fl_server.rules.made_rules import ROBUST, RULES, combine, honest_rows, settings_for

seeds = st.integers(0, 2**32 - 1)
every_rule = pytest.mark.parametrize("rule", RULES)
mixed_or_not = pytest.mark.parametrize("mixing", get_args(Mixing))
plain_or_by_distance = pytest.mark.parametrize("mixing", ["off", "distance"])
"""Directions change when all updates are moved."""


@every_rule
@mixed_or_not
@pytest.mark.parametrize("clipping", [None, 1.0], ids=["any length", "clipped"])
@given(seed=seeds, devices=st.integers(7, 12), values=st.sampled_from([2, 17, BLOCK + 3]))
@settings(max_examples=8)
def test_the_order_does_not_change_a_bit(
    rule: RuleName, mixing: Mixing, clipping: float | None, seed: int, devices: int, values: int
) -> None:
    rows, order = honest_rows(devices, values, seed), list(range(devices))
    chosen = settings_for(rule, mixing=mixing, clipping=clipping)
    random.Random(seed).shuffle(order)
    assert combine(chosen, rows).tobytes() == combine(chosen, rows, order).tobytes()


@every_rule
@mixed_or_not
@given(seed=seeds, devices=st.integers(5, 9).filter(lambda devices: devices != 6))
@settings(max_examples=15)
def test_of_equal_updates_each_is_the_result(rule: RuleName, mixing: Mixing, seed: int, devices: int) -> None:
    rows = np.repeat(honest_rows(1, 9, seed), devices, axis=0)
    result = combine(settings_for(rule, mixing=mixing), rows)
    np.testing.assert_allclose(result, rows[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rule", ["mean", "median", "trimmed-mean", "krum", "multi-krum", "geometric-median"])
@plain_or_by_distance
@given(seed=seeds)
@settings(max_examples=15)
def test_a_shift_of_all_updates_shifts_the_result(rule: RuleName, mixing: Mixing, seed: int) -> None:
    # Not of trust, which measures angles, and not of centred clipping, which comes from no change.
    rows, chosen = honest_rows(10, 6, seed), settings_for(rule, mixing=mixing)
    shift = np.float32(3.0) * honest_rows(1, 6, seed + 1)[0]
    shifted = combine(chosen, rows + shift)
    np.testing.assert_allclose(shifted, combine(chosen, rows) + shift, atol=1e-3)


@pytest.mark.parametrize("rule", ["median", "trimmed-mean"])
@plain_or_by_distance
@given(seed=seeds, at=st.floats(-1e4, 1e4, width=32), attackers=st.integers(1, 4))
def test_no_value_leaves_the_range_of_the_honest(
    rule: RuleName, mixing: Mixing, seed: int, at: float, attackers: int
) -> None:
    rows = honest_rows(2 * attackers + 3, 5, seed)
    honest = rows[attackers:]
    rows[:attackers] = np.float32(at)
    result = combine(settings_for(rule, mixing=mixing, attackers=attackers / len(rows)), rows)
    if mixing != "off":  # a neighbourhood may hold attackers, but only those as near as the honest
        assert np.linalg.norm(result - honest.mean(axis=0)) <= 2 * _diameter(honest)
    else:
        assert (result >= honest.min(axis=0) - 1e-6).all()
        assert (result <= honest.max(axis=0) + 1e-6).all()


def _diameter(rows: Rows) -> float:
    return float(max(np.linalg.norm(a - b) for a in rows for b in rows))


@pytest.mark.parametrize("rule", [rule for rule in ROBUST if rule != "trust"])
@mixed_or_not
@given(seed=seeds, length=st.sampled_from([5.0, 100.0, 1e4]))
@settings(max_examples=15)
def test_colluding_attackers_hardly_move_the_result(
    rule: RuleName, mixing: Mixing, seed: int, length: float
) -> None:
    rows = honest_rows(15, 8, seed)
    honest = rows[3:].mean(axis=0)
    rows[:3] = -np.float32(length) * honest
    result = combine(settings_for(rule, mixing=mixing), rows)
    radius = max(np.linalg.norm(row - honest) for row in rows[3:])
    assert np.linalg.norm(result - honest) <= 1.1 * radius
    if length * np.linalg.norm(honest) > 100 * radius:
        assert np.linalg.norm(rows.mean(axis=0) - honest) > 2 * radius  # as a mean lets itself be moved


@given(seed=seeds)
def test_nothing_trimmed_is_a_mean(seed: int) -> None:
    rows = honest_rows(7, 20, seed)
    result = combine(settings_for("trimmed-mean", attackers=0.0), rows)
    np.testing.assert_allclose(result, rows.mean(axis=0, dtype=np.float64), rtol=1e-5, atol=1e-6)


@given(seed=seeds, devices=st.integers(3, 12))
def test_the_median_is_numpys(seed: int, devices: int) -> None:
    rows = honest_rows(devices, 20, seed)
    np.testing.assert_array_equal(combine(settings_for("median"), rows), np.median(rows, axis=0))


@given(seed=seeds)
def test_krum_returns_an_update_of_an_honest_device(seed: int) -> None:
    rows = honest_rows(11, 6, seed, spread=0.3)
    rows[:3] = -rows[:3]
    result = combine(settings_for("krum"), rows)
    assert any((result == row).all() for row in rows[3:])


@given(seed=seeds)
def test_no_point_is_nearer_to_all_than_the_geometric_median(seed: int) -> None:
    rows = honest_rows(9, 4, seed)
    result = combine(settings_for("geometric-median"), rows)

    def way(point: np.ndarray) -> float:
        return float(np.linalg.norm(rows - point, axis=1).sum())

    others = result + 0.05 * np.random.default_rng(seed).normal(size=(20, 4))
    assert all(way(result) <= way(other) + 1e-3 for other in (*others, *rows))


@every_rule
def test_blocks_leave_no_seam(rule: RuleName) -> None:
    rows = honest_rows(9, 2 * BLOCK + 5, 0)
    result = combine(settings_for(rule), rows)
    honest = rows.mean(axis=0, dtype=np.float64)
    assert np.corrcoef(result, honest)[0, 1] > 0.7
    for part in (slice(0, BLOCK), slice(BLOCK, 2 * BLOCK), slice(2 * BLOCK, None)):
        assert np.abs(result[part] - honest[part]).mean() < 1.2


@every_rule
@mixed_or_not
def test_updates_are_not_changed_where_they_came_from(rule: RuleName, mixing: Mixing) -> None:
    rows = honest_rows(9, 30, 1)
    before = rows.tobytes()
    combine(settings_for(rule, mixing=mixing, clipping=0.5), rows)
    assert rows.tobytes() == before


@given(seeds, st.floats(0.1, 10))
def test_a_step_backwards_of_any_length_finds_few_neighbours_by_direction(seed: int, length: float) -> None:
    """Inner product manipulation: by distance a short one is nearer to the honest than they are."""
    rng = np.random.default_rng(seed)
    honest = (rng.standard_normal((16, 400)) + 0.5).astype(np.float32)
    backwards = np.tile(-length * honest.mean(axis=0), (4, 1)).astype(np.float32)
    mixed = mix(np.concatenate((honest, backwards)), 4, "direction")
    np.testing.assert_allclose(mixed[:16], np.tile(honest.mean(axis=0), (16, 1)), atol=1e-5)


def test_a_row_of_zeros_has_no_direction_and_harms_nobody() -> None:
    rows = np.concatenate((honest_rows(4, 6, 0), np.zeros((1, 6), np.float32)))
    assert np.isfinite(mix(rows, 1, "direction")).all()


@given(seed=seeds, devices=st.integers(2, 8), silent=st.sets(st.integers(0, 7)))
def test_a_direction_is_as_far_as_its_angle_and_no_direction_is_at_right_angles(
    seed: int, devices: int, silent: set[int]
) -> None:
    rows = honest_rows(devices, 5, seed)
    still = [place for place in range(devices) if place in silent]
    rows[still] = 0
    distances = direction_distances(rows)
    for a in range(devices):
        for b in range(devices):
            lengths = np.linalg.norm(rows[a]) * np.linalg.norm(rows[b])
            cosine = rows[a] @ rows[b] / lengths if lengths else 0.0
            assert distances[a, b] == pytest.approx(0.0 if a == b else 2 - 2 * cosine, abs=1e-4)
