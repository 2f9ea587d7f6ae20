"""The aggregate: the true mean, whatever the order, in little memory, and never wrapped."""

from __future__ import annotations

import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.protocol.tensors import BLOCK, Row, Weights, norm
from fl_server.rules.mean import ExactMean

SCHEMA = {"a": (3, 2), "b": (), "c": (1,)}
LARGEST = 200.0

elements = st.floats(-1, 1, width=32)
updates_values = st.fixed_dictionaries(
    {name: hnp.arrays(np.float32, shape, elements=elements) for name, shape in SCHEMA.items()}
)
batches = st.lists(st.tuples(updates_values, st.integers(1, 5)), min_size=1, max_size=8)


def row(update: Weights) -> Row:
    """All values in the order of the tensors' names, as they come in an answer."""
    return np.concatenate([update[name].reshape(-1) for name in sorted(update)])


def fold(mean: ExactMean, values: Row, weight: int = 1) -> None:
    mean.fold(values, weight, norm=norm(values))


def fold_all(batch: list[tuple[Weights, int]], largest: float = LARGEST) -> ExactMean:
    mean = ExactMean(SCHEMA, largest)
    for update, weight in batch:
        fold(mean, row(update), weight)
    return mean


@given(batches)
def test_it_is_the_weighted_mean(batch: list[tuple[Weights, int]]) -> None:
    mean = fold_all(batch).result()
    total = sum(weight for _, weight in batch)
    for name, shape in SCHEMA.items():
        exact = sum(weight * update[name].astype(np.float64) for update, weight in batch) / total
        assert mean[name].shape == shape
        assert mean[name].dtype == np.float32
        np.testing.assert_allclose(mean[name], exact, rtol=1e-6, atol=1e-9)


@given(batches, st.randoms(use_true_random=False))
def test_the_order_does_not_change_a_bit(batch: list[tuple[Weights, int]], random: object) -> None:
    shuffled = list(batch)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    first, second = fold_all(batch).result(), fold_all(shuffled).result()
    assert all(first[name].tobytes() == second[name].tobytes() for name in SCHEMA)


def test_a_float_sum_would_depend_on_the_order() -> None:
    # What the exact sum is for: the same three values, added as floats, differ.
    values = [np.float32(1e8), np.float32(-1e8), np.float32(1)]
    assert (values[0] + values[1]) + values[2] != (values[0] + values[2]) + values[1]

    def mean_of(order: list[int]) -> float:
        mean = ExactMean({"a": (1,)}, 3e8)
        for index in order:
            fold(mean, values[index].reshape(1))
        return float(mean.result()["a"][0])

    assert mean_of([0, 1, 2]) == mean_of([0, 2, 1]) == mean_of([2, 1, 0]) == pytest.approx(1 / 3, rel=1e-6)


@given(updates_values, st.integers(1, 5))
def test_a_weight_counts_like_repetition(update: Weights, weight: int) -> None:
    once = fold_all([(update, weight)]).result()
    often = fold_all([(update, 1)] * weight).result()
    for name in SCHEMA:
        np.testing.assert_allclose(once[name], often[name], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("bad", [LARGEST, 1e30, np.inf, -np.inf, np.nan])
def test_what_is_too_large_is_refused_and_changes_nothing(bad: float) -> None:
    good = {name: np.full(shape, 0.5, np.float32) for name, shape in SCHEMA.items()}
    mean = fold_all([(good, 1)])
    with pytest.raises(OverflowError):
        # The large value comes last: the tensors before it must not have been added either.
        fold(mean, row(good | {"c": np.array([bad], np.float32)}))
    assert (mean.count, mean.total_weight) == (1, 1)
    fold(mean, row(good))
    result, expected = mean.result(), fold_all([(good, 2)]).result()
    assert all(result[name].tobytes() == expected[name].tobytes() for name in SCHEMA)


@pytest.mark.parametrize("sign", [1, -1])
def test_it_holds_as_much_as_it_promises_and_no_more(sign: int) -> None:
    mean = ExactMean({"a": (1,)}, 8.0)
    for _ in range(8):
        fold(mean, np.array([sign], np.float32))
    assert mean.result()["a"][0] == sign
    with pytest.raises(OverflowError):
        fold(mean, np.array([sign], np.float32))


def test_nothing_has_no_mean() -> None:
    with pytest.raises(ZeroDivisionError):
        ExactMean(SCHEMA, 1.0).result()
    with pytest.raises(ZeroDivisionError):
        fold_all([({name: np.ones(shape, np.float32) for name, shape in SCHEMA.items()}, 0)]).result()


@pytest.mark.parametrize("count", [BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 17])
def test_blocks_leave_no_seam(count: int) -> None:
    rng = np.random.default_rng(count)
    values = [rng.normal(size=count).astype(np.float32) for _ in range(3)]
    mean = ExactMean({"a": (count,)}, 1000.0)
    for value in values:
        fold(mean, value)
    np.testing.assert_allclose(mean.result()["a"], np.mean(values, axis=0, dtype=np.float64), atol=1e-6)


@given(
    st.lists(
        st.tuples(
            hnp.arrays(np.float32, 5, elements=st.floats(-(2**20), 2**20, width=32)), st.integers(1, 1000)
        ),
        min_size=1,
        max_size=6,
    )
)
def test_it_is_what_python_integers_come_to(batch: list[tuple[Row, int]]) -> None:
    # Values up to 2**20 on a grid of 2**-6: the sums cross the border between high and low bits both ways.
    mean, places = ExactMean({"a": (5,)}, 2.0**40), 6
    for values, weight in batch:
        fold(mean, values, weight)
    total = sum(weight for _, weight in batch)
    sums = [
        sum(round(Fraction(float(values[place])) * weight * 2**places) for values, weight in batch)
        for place in range(5)
    ]
    expected = np.array([value / (2.0**places * total) for value in sums]).astype(np.float32)
    assert mean.result()["a"].tolist() == expected.tolist()


def test_a_row_may_begin_anywhere_in_a_message() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=BLOCK + 5).astype(np.float32)
    crooked = np.frombuffer(b"x" + values.tobytes(), np.float32, offset=1)
    assert not crooked.flags.aligned
    straight_mean, crooked_mean = (ExactMean({"a": values.shape}, 1000.0) for _ in range(2))
    fold(straight_mean, values, 3)
    fold(crooked_mean, crooked, 3)
    assert straight_mean.result()["a"].tobytes() == crooked_mean.result()["a"].tobytes()


def test_it_needs_six_bytes_a_value_however_many_updates_come() -> None:
    count, scratch = 2_000_000, 15 * BLOCK
    update = np.ones(count, np.float32)
    tracemalloc.start()
    try:
        mean = ExactMean({"a": (count,)}, 10_000.0)
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for _ in range(5):
            fold(mean, update)
        mean.result()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held == pytest.approx(6 * count + scratch, rel=0.001)
    assert peak == pytest.approx(held, rel=0.1)
