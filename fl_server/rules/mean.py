"""Folding updates into one mean as they arrive."""

from __future__ import annotations

import math

import numpy as np

from common.protocol.tensors import BLOCK, Row, Schema, Weights, blocks, split_row


class ExactMean:
    """Weighted mean of tensors whose sum is exact, so the order in which updates arrive does not matter.

    Values are rounded to a fixed grid and added as 48-bit integers, held as 16 high and 32 low bits: six
    bytes a value, less than doubles and much less than a list of updates. Float sums would make two runs with
    the same seeds differ in the last bit whenever devices answer in another order.

    Args:
        schema: shapes of the tensors.
        largest_sum: bound on the sum of weight * |value|; it fixes the grid, 2**-47 of the bound. Larger sums
            are refused, never wrapped.
    """

    def __init__(self, schema: Schema, largest_sum: float) -> None:
        self._schema = schema
        # A double has 52 bits behind its leading one. Added to a value, this one leaves in them the value as
        # an integer on the grid, rounded to even; below 2**47 the 48 low bits are its two's complement.
        self._places = 46 - math.ceil(math.log2(largest_sum))
        self._anchor = 1.5 * 2.0 ** (52 - self._places)
        self._room = largest_sum
        count = sum(map(math.prod, schema.values()))
        self._high, self._low = np.zeros(count, np.int16), np.zeros(count, np.uint32)
        # What one block goes through.
        block = min(count, BLOCK)
        self._doubles, self._words = np.empty(block, np.float64), np.empty(block, np.uint32)
        self._carry, self._halves = np.empty(block, np.bool_), np.empty(block, np.int16)
        self.total_weight = 0
        self.count = 0

    def fold(self, row: Row, weight: int = 1, *, norm: float, device: str = "") -> None:
        """As `Rule`: add `weight` times an update, whose norm bounds its values."""
        if not weight * norm <= self._room:
            raise OverflowError("the update is larger than the aggregate has room for")
        self._room -= weight * norm
        for part in blocks(row.size):
            self._add(part, row[part], weight)
        self.total_weight += weight
        self.count += 1

    def result(self) -> Weights:
        """As `Rule`: the weighted mean. The sum is used up: the mean takes its place in memory."""
        if not self.total_weight:
            raise ZeroDivisionError("no update was folded in")
        divisor = 2.0**self._places * self.total_weight
        row = self._low.view(np.float32)
        for part in blocks(row.size):
            total = self._high[part].astype(np.int64) << 32
            total += self._low[part]
            row[part] = total / divisor
        self._high = np.empty(0, np.int16)
        return split_row(row, self._schema)

    def _add(self, part: slice, values: Row, weight: int) -> None:
        """Add a block of values in the places of `part`. Every step writes to memory that is there."""
        high, low, size = self._high[part], self._low[part], values.size
        doubles, words = self._doubles[:size], self._words[:size]
        carry, halves = self._carry[:size], self._halves[:size]
        np.copyto(doubles, values)
        if weight != 1:
            doubles *= weight
        doubles += self._anchor
        bits = doubles.view(np.int64)
        np.copyto(words, bits, casting="unsafe")
        low += words
        np.less(low, words, out=carry)
        bits >>= 32
        np.copyto(halves, bits, casting="unsafe")
        high += halves
        high += carry
