"""Folding updates into one mean as they arrive."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from common.protocol.tensors import Schema, Weights

BLOCK = 1 << 14
"""Values handled at once, so that intermediate results stay in the cache and out of the memory bill."""


class ExactMean:
    """Weighted mean of tensors whose sum is exact, so the order in which updates arrive does not matter.

    Values are rounded to a fixed grid and added as 48-bit integers, held as 32 high and 16 low bits: six
    bytes a value, less than doubles and much less than a list of updates. Float sums would make two runs with
    the same seeds differ in the last bit whenever devices answer in another order.

    Args:
        schema: shapes of the tensors.
        largest_sum: bound on the sum of weight * |value|; it fixes the grid, 2**-47 of the bound. Larger sums
            are refused, never wrapped.
    """

    def __init__(self, schema: Schema, largest_sum: float) -> None:
        self._schema = schema
        self._scale = 2.0 ** (46 - math.ceil(math.log2(largest_sum)))
        self._room = largest_sum
        self._high = {name: np.zeros(shape, np.int32).reshape(-1) for name, shape in schema.items()}
        self._low = {name: np.zeros(shape, np.uint16).reshape(-1) for name, shape in schema.items()}
        self.total_weight = 0
        self.count = 0

    def fold(self, update: Weights, weight: int = 1) -> None:
        """Add `weight` times `update`.

        Raises:
            OverflowError: the sum could pass the bound; nothing has been added.
        """
        extremes = [np.maximum(value.max(), -value.min()) for value in update.values() if value.size]
        largest = float(np.max(extremes))  # unlike max(), this passes NaN on
        if not weight * largest <= self._room:
            raise OverflowError("the update is larger than the aggregate has room for")
        self._room -= weight * largest
        for name, value in update.items():
            flat = value.reshape(-1)
            for high, low, part in _blocks(self._high[name], self._low[name], flat):
                total = np.rint(part.astype(np.float64) * (weight * self._scale)).astype(np.int64)
                total += low
                total += high.astype(np.int64) << 16
                high[:] = total >> 16
                low[:] = total & 0xFFFF
        self.total_weight += weight
        self.count += 1

    def mean(self) -> Weights:
        """The weighted mean of what was folded in. The sum is used up.

        Raises:
            ZeroDivisionError: nothing was.
        """
        if not self.total_weight:
            raise ZeroDivisionError("no update was folded in")
        result: Weights = {}
        for name, shape in self._schema.items():
            out = np.empty(self._high[name].shape, np.float32)
            for high, low, part in _blocks(self._high.pop(name), self._low.pop(name), out):
                total = (high.astype(np.int64) << 16) + low
                part[:] = total / (self._scale * self.total_weight)
            result[name] = out.reshape(shape)
        return result


def _blocks(
    high: npt.NDArray[np.int32], low: npt.NDArray[np.uint16], values: npt.NDArray[np.float32]
) -> Iterator[tuple[npt.NDArray[np.int32], npt.NDArray[np.uint16], npt.NDArray[np.float32]]]:
    for start in range(0, len(values), BLOCK):
        stop = start + BLOCK
        yield high[start:stop], low[start:stop], values[start:stop]
