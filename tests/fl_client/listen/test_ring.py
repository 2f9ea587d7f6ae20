"""A ring is the tail of everything appended."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fl_client.listen.ring import Ring


@given(
    capacity=st.integers(1, 12),
    start=st.integers(0, 30),
    sizes=st.lists(st.integers(0, 30), max_size=12),
    ago=st.integers(0, 40),
)
def test_a_ring_is_the_tail_of_the_stream(capacity: int, start: int, sizes: list[int], ago: int) -> None:
    ring = Ring(capacity, start=start)
    stream = np.arange(start, start + sum(sizes), dtype=np.float32)
    for block in np.split(stream, np.cumsum(sizes)):
        ring.append(block)
    assert ring.end == start + len(stream)
    assert ring.begin == max(start, ring.end - capacity)
    since = ring.end - ago
    expected = np.arange(max(since, ring.begin), ring.end, dtype=np.float32)
    np.testing.assert_array_equal(ring.since(since), expected)
    np.testing.assert_array_equal(ring.copy().since(since), expected)
    np.testing.assert_array_equal(ring.resized(capacity + 9).since(since), expected)


def test_a_copy_goes_its_own_way() -> None:
    ring = Ring(4, (2,))
    ring.append(np.ones((3, 2), np.float32))
    twin = ring.copy()
    ring.append(np.zeros((4, 2), np.float32))
    np.testing.assert_array_equal(twin.since(0), np.ones((3, 2)))
    assert (ring.end, twin.end) == (7, 3)
