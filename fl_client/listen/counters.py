"""What a listener counts, so that nothing it loses stays hidden."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Counters:
    """Facts since the recognizer was made.

    Attributes:
        hops: hops scored, or not for want of sound.
        gated: those of them that were not scored, because the energy gate was closed.
        dropped: hops never scored, because the source lost their samples or because of a fault here.
        doubled: hops scored twice. Anything but 0 is a fault.
        overruns: times a source came faster than it was read, or its driver said so.
        events: events reported.
        swaps: releases put to work in place of another.
        refused: releases that were not.
        rollbacks: swaps taken back.
        last_gap_seconds, max_gap_seconds: wall time for which a swap or a rollback held up the sound.
    """

    hops: int = 0
    gated: int = 0
    dropped: int = 0
    doubled: int = 0
    overruns: int = 0
    events: int = 0
    swaps: int = 0
    refused: int = 0
    rollbacks: int = 0
    last_gap_seconds: float = 0.0
    max_gap_seconds: float = 0.0

    def swapped(self, gap_seconds: float, *, back: bool) -> None:
        """Count a swap, or one taken back, that held up the sound for so long."""
        if back:
            self.rollbacks += 1
        else:
            self.swaps += 1
        self.last_gap_seconds = gap_seconds
        self.max_gap_seconds = max(self.max_gap_seconds, gap_seconds)
