"""Rules that compare updates keep them until the round is over."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from common.errors import CoordinatorError
from common.protocol.tensors import Row, Schema, Weights, blocks, split_row
from fl_server.rules.rule import Rows


class Kept:
    """Any rule that is a function of all updates. Memory: one model for each device that is asked.

    Args:
        schema: of an answer.
        asked: devices that may answer.
        combine: makes one update of all, which come in the order of their devices' ids, so that the result is
            the same to the last bit whoever answers first. It may use up their memory.
        fewest: updates without which `combine` promises nothing.
    """

    def __init__(self, schema: Schema, asked: int, combine: Callable[[Rows], Row], fewest: int) -> None:
        self._schema, self._combine, self._fewest = schema, combine, fewest
        self._rows = np.empty((asked, sum(map(math.prod, schema.values()))), np.float32)
        self._devices: list[str] = []
        self.count = 0

    def fold(self, row: Row, weight: int, *, device: str, norm: float) -> None:
        """As `Rule`; every update counts as one, for a weight is what its sender claims."""
        self._rows[self.count] = row
        self._devices.append(device)
        self.count += 1

    def result(self) -> Weights:
        """As `Rule`."""
        if not self.count:
            raise ZeroDivisionError("no update was folded in")
        if self.count < self._fewest:
            raise CoordinatorError(
                "FA-5114",
                f"{self.count} of {len(self._rows)} devices answered, and the rule needs {self._fewest}: "
                "attackers do not stay away.",
                "Allow more time (rounds.answer_seconds), or allow for fewer aggregation.attackers.",
            )
        rows = self._rows[: self.count]
        order = sorted(range(self.count), key=self._devices.__getitem__)
        for part in blocks(rows.shape[1]):  # all at once would need as much memory again
            rows[:, part] = rows[order, part]
        return split_row(self._combine(rows), self._schema)
