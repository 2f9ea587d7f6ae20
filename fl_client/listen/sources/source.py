"""What a source of sound gives: 16 kHz, one channel, full scale 1."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from common.audio.front_end import SAMPLE_RATE
from fl_client.listen.ring import Rows

PERIOD = SAMPLE_RATE // 25
"""Samples a live source delivers at a time: 40 ms. Waking up costs more than the hops it is for, and half the
processor time of 20 ms is worth 20 ms more to an event."""

WAIT_SECONDS = 0.1
"""Time a read waits before it returns nothing, so that a reader can see that it should stop."""


@dataclass(frozen=True)
class Block:
    """What one read gives.

    Attributes:
        samples: (n,) float32; empty if nothing came in time.
        lost: samples that are missing before these.
        overruns: times since the last read that the reader or the driver was too late.
    """

    samples: Rows
    lost: int = 0
    overruns: int = 0


class Source(Protocol):
    """Sound from `__enter__` to `__exit__`."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def read(self) -> Block | None:
        """The samples since the last read, after `WAIT_SECONDS` at most; None when there will be no more."""
