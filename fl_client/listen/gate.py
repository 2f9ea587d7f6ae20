"""Tells a quiet room from one in which something happens, so that the network need not run in the former."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from common.audio.front_end import SAMPLE_RATE
from common.audio.stream import believable
from fl_client.listen.engine import Frames
from fl_client.listen.loudness import TICK
from fl_client.listen.ring import Ring, Rows
from fl_client.listen.scorer import Scorer

MEMORY = math.exp(-TICK / SAMPLE_RATE / 0.05)
"""The level is that of the power under an exponential memory of 50 ms."""

RISE_DB = 1.0 / 100
"""What the floor rises in a tick, 1 dB a second: a fan that goes on becomes floor, a sentence hardly does."""

FALL = 0.1
"""Share of the way down to a lower level that the floor goes in a tick: 0.1 s of quiet are enough."""

QUIETEST = 1e-12


class Gate:
    """Open while sound stands out of the room's noise, and for some time after it.

    The noise floor is a level that falls fast and rises slowly, so it follows the quiet moments. What the
    gate says of a place in the stream does not depend on the blocks the stream came in.

    At 6 dB no word was lost of 1196 Arabic commands at 10 dB SNR in white noise, in the synthetic corpus's
    textures and in recorded rain, sea, helicopters and chain saws, 2 to 6 s apart. The gate was open 29, 76
    and 79 % of the time: it saves much in a room that is quiet, and little in one that is not.

    Args:
        above_db: how far above the floor a level must be to open the gate.
        tick: the first to be heard; the gate is open then.
    """

    def __init__(self, above_db: float, tick: int = 0) -> None:
        self._above_db = above_db
        self._pending = np.empty(0, np.float32)
        self._power = 0.0
        self._floor_db: float | None = None
        # At the end of each of the newest ticks, where sound last stood out; the first is tick `_first`.
        self._loud_at = [tick * TICK]
        self._first = tick - 1

    def feed(self, samples: Rows) -> None:
        """Hear the next samples (n,)."""
        pending = np.concatenate((self._pending, believable(samples)))
        ticks = len(pending) // TICK
        self._pending = pending[ticks * TICK :]
        # The variance, not the power: a microphone's constant offset is no sound.
        powers = np.var(pending[: ticks * TICK].reshape(ticks, TICK), axis=1, dtype=np.float64)
        self._first += len(self._loud_at) - 1
        del self._loud_at[:-1]
        for tick, power in enumerate(powers.tolist(), self._first + 1):
            self._loud_at.append((tick + 1) * TICK if self._stands_out(power) else self._loud_at[-1])

    def open(self, ends: NDArray[np.int64], hold: int) -> NDArray[np.bool_]:
        """Whether sound stood out within `hold` samples before each of `ends` (n,), places in the block that
        was fed last.
        """
        loud_at = np.array(self._loud_at)
        gates: NDArray[np.bool_] = ends - loud_at[ends // TICK - 1 - self._first] <= hold
        return gates

    def _stands_out(self, power: float) -> bool:
        floor = self._floor_db
        self._power = power if floor is None else MEMORY * self._power + (1.0 - MEMORY) * power
        level = 10.0 * math.log10(self._power + QUIETEST)
        if floor is None:
            floor = level
        elif level < floor:
            floor += FALL * (level - floor)
        else:
            floor = min(level, floor + RISE_DB)
        self._floor_db = floor
        return level > floor + self._above_db


class GatedScorer:
    """A scorer that rests while the gate is closed.

    What is not scored is kept, as far back as it matters. When the gate opens that is caught up with in one
    go, so the scores are those of a scorer that never rests.
    """

    def __init__(self, scorer: Scorer, features: int, labels: int) -> None:
        self.scorer = scorer
        self.need = scorer.need
        self._features = features
        self._labels = labels
        self._forget()

    @property
    def frame(self) -> int:
        """Index in the stream of the next frame."""
        return self.scorer.frame + self._missed.end

    def reset(self, frame: int) -> None:
        """As of a scorer."""
        self.scorer.reset(frame)
        self._forget()

    def feed(self, features: Frames, gates: NDArray[np.bool_] | None = None) -> Frames:
        """Scores (T, labels) of the next frames (T, features); 0 where a gate of `gates` (T,) is closed."""
        if gates is None or gates.all():
            self._catch_up()
            return self.scorer.feed(features)
        changes = np.flatnonzero(gates[1:] != gates[:-1]) + 1
        scores = []
        for part, is_open in zip(np.split(features, changes), gates[[0, *changes]], strict=True):
            if is_open:
                self._catch_up()
                scores.append(self.scorer.feed(part))
            else:
                self._missed.append(part)
                scores.append(np.zeros((len(part), self._labels), np.float32))
        return np.concatenate(scores)

    def _catch_up(self) -> None:
        if not self._missed.end:
            return
        if self._missed.begin:
            self.scorer.reset(self.scorer.frame + self._missed.begin)
        self.scorer.feed(self._missed.since(0))
        self._forget()

    def _forget(self) -> None:
        self._missed = Ring(self.need, (self._features,))
