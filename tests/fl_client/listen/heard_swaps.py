"""A recognizer that hears sound as a microphone gives it, while releases follow one another."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fl_client.listen.counters import Counters
from fl_client.listen.events import Swap
from fl_client.listen.limits import SwapLimits
from fl_client.listen.recognizer import Recognizer
from tests.fl_client.listen.made_releases import make_task

Sound = NDArray[np.float32]
BLOCK = 320
NOT_COMPARED = SwapLimits(shadow_seconds=0, wait_seconds=0)
BRIEF = SwapLimits(shadow_seconds=0.3, wait_seconds=0.5, patience_seconds=2, sure_hops=20)


def hear(recognizer: Recognizer, sound: Sound) -> list[Swap]:
    """Feed `sound` as a microphone does, without getting ahead of a shadow; what became of swaps by that."""
    told = []
    for start in range(0, len(sound), BLOCK):
        recognizer.feed(sound[start : start + BLOCK])
        if recognizer._swap._shadow is not None:
            recognizer._swap._shadow.end_turn()
        told += recognizer.swaps()
    return told


def is_whole(counters: Counters, samples: int) -> bool:
    due = make_task().front_end.frames(samples)
    return (counters.hops, counters.dropped, counters.doubled) == (due, 0, 0)
