"""One release at work on a stream of sound: samples in, a row of scores per hop out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from common.audio.front_end import SAMPLE_RATE
from common.audio.stream import StreamFrontEnd
from common.protocol.release import Release
from fl_client.listen.engine import Frames
from fl_client.listen.front_ends import FrontEnds
from fl_client.listen.gate import Gate, GatedScorer
from fl_client.listen.ring import Ring, Rows
from fl_client.listen.scorer import build_scorer

SETTLING = 500
"""Hops after which a front end forgets how it began: its running mean has a time constant of 40 hops."""

BLOCK = SAMPLE_RATE // 2
"""Samples scored in one go, which bounds the memory a block of any size needs."""


class Pipeline:
    """Front end and scorer of one release.

    Hop i of the stream covers samples [i*hop, i*hop + window) whichever pipeline scores it: all share one
    grid, so one can take over from another between two hops.

    Attributes:
        gated: hops of the last `feed` that were not scored.

    Args:
        release: the version to run.
        like: a pipeline whose ONNX Runtime session is used again if the graph is the same.

    Raises:
        DeviceError: FA-4201, FA-4202.
        AudioError: FA-1008, the release's front end is impossible.
    """

    def __init__(self, release: Release, like: Pipeline | None = None) -> None:
        self.release = release
        self.task = release.manifest.task
        self._front_end = StreamFrontEnd(self.task.front_end)
        scorer = build_scorer(release, like._scorer.scorer if like is not None else None)
        self._scorer: GatedScorer = GatedScorer(scorer, self.task.front_end.features, len(self.task.labels))
        self._position = 0
        self.gated = 0

    @property
    def position(self) -> int:
        """Samples of the stream up to the next one to be heard."""
        return self._position

    @property
    def hop(self) -> int:
        """Index in the stream of the next hop."""
        return self._scorer.frame

    @property
    def memory(self) -> int:
        """Samples of the past that decide the scores of the next hop."""
        return (self._scorer.need + SETTLING) * self.task.front_end.hop + self.task.front_end.window

    def feed(self, samples: Rows, gate: Gate | None = None, front_ends: FrontEnds | None = None) -> Frames:
        """Scores (hops, labels) of the hops that `samples` (n,) complete; rows as in `GatedScorer.feed`.

        Args:
            gate: has heard `samples` too; None to score whatever comes.
            front_ends: of those who hear the same stream, in this thread; None to hear it alone.
        """
        first, begin, front_end = self.hop, self._position, self.task.front_end
        self._position += len(samples)
        if front_ends is None:
            features = self._front_end.feed(samples)
        else:
            features = front_ends.features(self._front_end, first, begin, samples)
        if gate is None:
            self.gated = 0
            return self._scorer.feed(features)
        ends = np.arange(first, first + len(features)) * front_end.hop + front_end.window
        gates = gate.open(ends, self.task.clip_samples)
        self.gated = len(gates) - int(gates.sum())
        return self._scorer.feed(features, gates)

    def start(self, position: int) -> None:
        """Forget all; the next sample will be number `position` of the stream."""
        hop = self.task.front_end.hop
        self._position = position
        self._front_end.reset(-position % hop)
        self._scorer.reset(-(-position // hop))

    def catch_up(self, recent: Ring) -> Frames:
        """Hear what `recent` holds and this pipeline has not heard, as far as it matters: its newest `memory`
        samples if it has missed more.

        Returns:
            Scores (hops, labels) of the hops it has heard by that.
        """
        oldest = max(recent.begin, recent.end - self.memory)
        if not oldest <= self._position <= recent.end:
            self.start(oldest)
        missed = recent.since(self._position)
        return np.concatenate([self.feed(block) for block in blocks(missed)] or [self.feed(missed)])


def blocks(samples: Rows) -> Iterator[Rows]:
    """`samples` in pieces of at most `BLOCK`."""
    for start in range(0, len(samples), BLOCK):
        yield samples[start : start + BLOCK]
