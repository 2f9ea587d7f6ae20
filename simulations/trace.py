"""When real devices were online: a CSV with the columns device, start and end, one row for each stretch."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.data.clips import read_table
from common.errors import DataError, SimulationError

COLUMNS = ("device", "start", "end")


@dataclass(frozen=True, eq=False)
class Trace:
    """Stretches of time, in any order; those of one device may overlap.

    Args:
        device: whose stretch it is, counted from 0 in order of first appearance, (n,) int64.
        start, end: seconds, the end not included, (n,) float64.
        seconds: after which the trace begins anew: its last end.
    """

    device: NDArray[np.int64] = field(repr=False)
    start: NDArray[np.float64] = field(repr=False)
    end: NDArray[np.float64] = field(repr=False)
    seconds: float

    def online(self, clock: float, devices: int) -> NDArray[np.bool_]:
        """Which of `devices` devices are online at `clock` seconds, (devices,).

        Device n does as the trace's n-th; if the trace has fewer, they are gone through again and again.
        """
        moment = clock % self.seconds
        there = np.zeros(self.device.max() + 1, np.bool_)
        there[self.device[(self.start <= moment) & (moment < self.end)]] = True
        return np.resize(there, devices)

    def until(self, device: int, clock: float) -> float:
        """When `device` goes offline, at or after `clock` seconds; infinite if it never does."""
        moment = clock % self.seconds
        stays = self._end(device, moment)
        if stays == self.seconds:
            again = self._end(device, 0.0)
            stays = math.inf if again == self.seconds else stays + again
        return clock + stays - moment

    def _end(self, device: int, moment: float) -> float:
        """End of the stretches that are or begin without a gap from `moment` on; `moment` if none is."""
        end = moment
        for start, stop in self._stretches[device % len(self._stretches)]:
            if start <= end:
                end = max(end, stop)
        return end

    @cached_property
    def _stretches(self) -> dict[int, list[tuple[float, float]]]:
        """Of each device in the trace, by their starts."""
        found: dict[int, list[tuple[float, float]]] = defaultdict(list)
        order = np.argsort(self.start, kind="stable")
        columns = (column[order].tolist() for column in (self.device, self.start, self.end))
        for device, start, end in zip(*columns, strict=True):
            found[device].append((start, end))
        return dict(found)


def read_trace(path: Path) -> Trace:
    """Read a trace. Its devices may have any names.

    Raises:
        SimulationError: FA-9103, it is no such table, has no rows, or a stretch does not end after its start
            or begins before 0.
    """
    try:
        rows = read_table(path, COLUMNS)
    except DataError as error:
        raise _bad_trace(error.happened) from error
    if not rows:
        raise _bad_trace(f"{path} has no rows.")
    numbers: dict[str, int] = {}
    device = np.array([numbers.setdefault(row["device"], len(numbers)) for row in rows])
    try:
        start, end = (np.array([float(row[column]) for row in rows]) for column in ("start", "end"))
    except ValueError as error:
        raise _bad_trace(f"{path} has a start or an end that is no number: {error}.") from error
    # Written so that what is not a number at all is faulty too.
    faulty = np.flatnonzero(~((start >= 0) & (start < end) & np.isfinite(end)))
    if len(faulty):
        row = faulty[0]
        raise _bad_trace(f"{path} has a stretch from {start[row]:g} to {end[row]:g} seconds.")
    return Trace(device, start, end, float(end.max()))


def _bad_trace(happened: str) -> SimulationError:
    return SimulationError(
        "FA-9103", happened, "Give a CSV file with the columns device, start and end, in seconds from 0."
    )
