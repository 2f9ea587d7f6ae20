"""Sound that has come and was not read yet."""

from __future__ import annotations

import threading

from common.audio.front_end import SAMPLE_RATE
from fl_client.listen.ring import Ring, Rows
from fl_client.listen.sources.source import WAIT_SECONDS, Block

BACKLOG = 4 * SAMPLE_RATE
"""Samples a live source keeps for a reader that is late; then the oldest go."""


class Backlog:
    """Samples between the thread that delivers them and the one that reads; never blocks the former."""

    def __init__(self, capacity: int = BACKLOG) -> None:
        self._changed = threading.Condition()
        self._ring = Ring(capacity)
        self._read = 0
        self._driver_overruns = 0
        self._closed = False
        self._fault: Exception | None = None

    def write(self, samples: Rows, overrun: bool = False) -> None:
        """Add samples; if there is no room the oldest go. `overrun`: the driver lost some before these."""
        with self._changed:
            self._ring.append(samples)
            self._driver_overruns += overrun
            self._changed.notify()

    def close(self, fault: Exception | None = None) -> None:
        """No more will be written; `fault` is raised by the read that comes to the end."""
        with self._changed:
            self._closed = True
            self._fault = fault
            self._changed.notify()

    def read(self) -> Block | None:
        """As `Source.read`."""
        with self._changed:
            self._changed.wait_for(lambda: self._ring.end > self._read or self._closed, WAIT_SECONDS)
            samples = self._ring.since(self._read)
            if self._closed and len(samples) == 0:
                if self._fault is not None:
                    raise self._fault
                return None
            lost = max(0, self._ring.begin - self._read)
            overruns, self._driver_overruns = self._driver_overruns + (lost > 0), 0
            self._read = self._ring.end
            return Block(samples, lost, overruns)
