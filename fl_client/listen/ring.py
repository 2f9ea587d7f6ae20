"""The newest part of a stream."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]


class Ring:
    """The newest `capacity` rows of a stream, each known by its index since the stream began.

    Not thread-safe: who shares it holds a lock.

    Args:
        capacity: rows kept.
        shape: shape of one row; () for samples.
        start: index of the first row that will be appended.
    """

    def __init__(self, capacity: int, shape: tuple[int, ...] = (), start: int = 0) -> None:
        self._rows = np.zeros((capacity, *shape), np.float32)
        self._start = start
        self.end = start

    @property
    def capacity(self) -> int:
        """Rows kept."""
        return len(self._rows)

    @property
    def begin(self) -> int:
        """Index of the oldest row still there."""
        return max(self._start, self.end - len(self._rows))

    def append(self, rows: Rows) -> None:
        """Add `rows` (n, *shape); the oldest make room."""
        capacity = len(self._rows)
        self.end += len(rows)
        kept = rows[-capacity:] if len(rows) > capacity else rows
        at = (self.end - len(kept)) % capacity
        first = min(len(kept), capacity - at)
        self._rows[at : at + first] = kept[:first]
        self._rows[: len(kept) - first] = kept[first:]

    def since(self, index: int) -> Rows:
        """A copy of the rows from `index`, or from `begin` if they are gone, to `end`."""
        first = max(index, self.begin)
        if first >= self.end:
            return self._rows[:0].copy()
        low, high = first % len(self._rows), (self.end - 1) % len(self._rows) + 1
        if low < high:
            return self._rows[low:high].copy()
        return np.concatenate((self._rows[low:], self._rows[:high]))

    def copy(self) -> Ring:
        """An independent ring with the same rows and indices."""
        return self.resized(self.capacity)

    def resized(self, capacity: int) -> Ring:
        """A copy that keeps `capacity` rows."""
        begin = max(self.begin, self.end - capacity)
        twin = Ring(capacity, self._rows.shape[1:], begin)
        twin.append(self.since(begin))
        return twin
