"""Sound in, events out, with a release that can be replaced while it listens."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterable, Iterator

import numpy as np

from common.audio.front_end import SAMPLE_RATE
from common.errors import FedAudioError
from common.protocol.release import Release
from fl_client.listen.counters import Counters
from fl_client.listen.engine import not_numbers
from fl_client.listen.pipeline import Pipeline, blocks
from fl_client.listen.ring import Ring, Rows
from fl_client.listen.trigger import Detector, Event

HISTORY = 12 * SAMPLE_RATE
"""Samples kept at least, from which a new release learns what was just heard."""


class Recognizer:
    """Reports the labels a release hears in a stream of sound.

    One thread feeds it. `swap` may be called by any thread: there the new release is prepared and brought up
    to the present. It takes over between two hops of the feeding thread, which replays what came in since.
    No hop is lost or scored twice, and the new release's scores are those it would give had it listened from
    the start. It may differ in everything: weights, graph, labels, front end.

    Args:
        release: the version to start with.

    Raises:
        DeviceError: FA-4201, FA-4202, the release cannot be run.
        AudioError: FA-1008, its front end is impossible.
    """

    def __init__(self, release: Release) -> None:
        self._lock = threading.Lock()  # held for a copy of the recent samples at most
        self._pipeline = Pipeline(release)
        self._counters = Counters()
        self._life = 0
        self._successor: Pipeline | None = None
        self.reset()

    @property
    def version(self) -> int:
        """The version at work."""
        return self._pipeline.release.version

    @property
    def counters(self) -> Counters:
        """A copy of what has been counted so far."""
        return dataclasses.replace(self._counters)

    @property
    def seconds(self) -> float:
        """Stream time: samples fed and skipped so far, in seconds."""
        return (self._recent.end + self._skipped) / SAMPLE_RATE

    @property
    def scores(self) -> dict[str, float]:
        """Score of each label at the newest hop; all 0 until one whole window has been heard."""
        labels = self._pipeline.task.labels
        return dict(zip(labels, map(float, self._scores), strict=True))

    def feed(self, samples: Rows) -> list[Event]:
        """Hear the next samples and report.

        Args:
            samples: (n,) float32 at 16 kHz, full scale 1; any n.

        Returns:
            The events they complete, in order of time.
        """
        events: list[Event] = []
        for block in blocks(np.asarray(samples, np.float32)):
            self._take_over()
            events += self._hear(block)
        return events

    def listen(self, sound: Iterable[Rows]) -> Iterator[Event]:
        """The events in `sound`, an iterable of blocks as for `feed`."""
        for samples in sound:
            yield from self.feed(samples)

    def skip(self, samples: int, overruns: int = 1) -> None:
        """Note that `samples` were lost before the next `feed`: time goes on, and the loss is counted."""
        self._skipped += samples
        self._counters.overruns += overruns
        self._counters.dropped += -(-samples // self._pipeline.task.front_end.hop)

    def swap(self, release: Release) -> None:
        """Prepare `release` here and let it take over at the next hop of the feeding thread.

        Raises:
            DeviceError: FA-4201, FA-4202, it cannot be run; the one at work stays.
            AudioError: FA-1008.
        """
        try:
            pipeline = Pipeline(release, self._pipeline)
            with self._lock:
                life, recent = self._life, self._recent.copy()
            if not pipeline.catch_up(recent):
                raise not_numbers(release.version)
        except FedAudioError:
            self._counters.refused += 1
            raise
        with self._lock:
            if life != self._life:
                pipeline.start(0)  # what it has heard was forgotten meanwhile
            self._successor = pipeline

    def reset(self) -> None:
        """Forget everything heard and begin at time 0. The release, its successor and the counters stay."""
        self._pipeline.start(0)
        with self._lock:
            self._life += 1
            self._recent = Ring(max(HISTORY, self._pipeline.memory))
            if self._successor is not None:
                self._successor.start(0)
        task = self._pipeline.task
        self._detector = Detector(task, self.version)
        self._scores = np.zeros(len(task.labels), np.float32)
        self._next_hop = 0
        self._skipped = 0
        self._heard_at = time.perf_counter()
        self._before_swap: float | None = None

    def _take_over(self) -> None:
        """Put the prepared release to work, if there is one."""
        if self._successor is None:
            return
        with self._lock:
            pipeline, self._successor = self._successor, None
        pipeline.catch_up(self._recent)
        task = pipeline.task
        if task.front_end != self._pipeline.task.front_end:
            self._next_hop = task.front_end.frames(self._recent.end)
        if pipeline.memory > self._recent.capacity:
            with self._lock:
                self._recent = self._recent.resized(pipeline.memory)
        self._detector = self._detector.succeeded_by(task, pipeline.release.version)
        self._pipeline = pipeline
        self._before_swap = self._heard_at

    def _hear(self, samples: Rows) -> list[Event]:
        with self._lock:
            self._recent.append(samples)
        first = self._pipeline.hop
        scores = self._pipeline.feed(samples)
        if len(scores) == 0:
            return []
        self._scores = scores[-1]
        front_end = self._pipeline.task.front_end
        ends = np.arange(first, first + len(scores)) * front_end.hop + front_end.window + self._skipped
        events = self._detector.feed(scores, ends)
        self._count(first, len(scores), len(events))
        return events

    def _count(self, first: int, hops: int, events: int) -> None:
        """Compare the hops just scored, by the pipeline's own numbering, with those that were due."""
        counters, now = self._counters, time.perf_counter()
        counters.hops += hops
        counters.events += events
        counters.dropped += max(0, first - self._next_hop)
        counters.doubled += max(0, self._next_hop - first)
        self._next_hop = first + hops
        if self._before_swap is not None:
            counters.swapped(now - self._before_swap)
            self._before_swap = None
        self._heard_at = now
