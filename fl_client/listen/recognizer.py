"""Sound in, events out, with a release that can be replaced while it listens."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np

from common.audio.front_end import SAMPLE_RATE
from common.protocol.release import Release
from common.task import Task
from fl_client.listen.counters import Counters
from fl_client.listen.events import MAIN, Event, Swap
from fl_client.listen.front_ends import FrontEnds
from fl_client.listen.limits import SwapLimits
from fl_client.listen.pipeline import blocks
from fl_client.listen.ring import Rows
from fl_client.listen.settings import ListenSettings
from fl_client.listen.swap import HotSwap
from fl_client.listen.trigger import Detector


class Recognizer:
    """Reports the labels a release hears in a stream of sound.

    One thread feeds it. `swap` may be called by any thread; how one release follows another is the contract
    of `fl_client.listen.swap`. The next release may differ in everything: weights, graph, labels, front end.

    Args:
        release: the version to start with.
        owner: what the device's owner has a say in.
        limits: what a release must keep to that takes over.
        name: of the task, told with what is heard.
        front_ends: shared with those who are fed the same blocks in the same thread, if there are any.

    Raises:
        DeviceError: FA-4104, FA-4201, FA-4202, the release cannot be run.
        AudioError: FA-1008, its front end is impossible.
    """

    def __init__(
        self,
        release: Release,
        owner: ListenSettings | None = None,
        limits: SwapLimits | None = None,
        *,
        name: str = MAIN,
        front_ends: FrontEnds | None = None,
    ) -> None:
        self._owner = owner or ListenSettings()
        self._name = name
        self._counters = Counters()
        self._swap = HotSwap(release, limits or SwapLimits(), self._counters, self._owner, front_ends)
        self._begin()

    @property
    def version(self) -> int:
        """The version at work."""
        return self._swap.pipeline.release.version

    @property
    def release(self) -> Release:
        """The release at work."""
        return self._swap.pipeline.release

    @property
    def proved(self) -> Release | None:
        """The release at work, if it has been so for `SwapLimits.watch_seconds` and nothing was wrong."""
        return self._swap.proved

    @property
    def shadowed(self) -> bool:
        """Whether a release is waiting to take over."""
        return self._swap.shadowed

    @property
    def on_trial(self) -> bool:
        """Whether a release is waiting to take over, or has done so and is still watched."""
        return self._swap.on_trial

    @property
    def counters(self) -> Counters:
        """A copy of what has been counted so far."""
        return dataclasses.replace(self._counters)

    @property
    def seconds(self) -> float:
        """Stream time: samples fed and skipped so far, in seconds."""
        return (self._swap.position + self._skipped) / SAMPLE_RATE

    @property
    def task(self) -> Task:
        """The task of the version at work."""
        return self._pipeline.task

    @property
    def scores(self) -> dict[str, float]:
        """Score of each label at the newest hop; all 0 until one whole window has been heard."""
        labels = self._pipeline.task.labels
        return dict(zip(labels, map(float, self._scores), strict=True))

    @property
    def leading(self) -> tuple[str, float] | None:
        """The label that leads at the newest hop and its score, if it is one that can be reported: smoothed,
        and not below the label's threshold.
        """
        return self._detector.leading if self._scores.any() else None

    @property
    def held_seconds(self) -> dict[str, float]:
        """For how long each label has been held by the trigger so far."""
        return self._detector.held_seconds

    def feed(self, samples: Rows) -> list[Event]:
        """Hear the next samples and report.

        Args:
            samples: (n,) float32 at 16 kHz, full scale 1; any n.

        Returns:
            The events they complete, in order of time.
        """
        events: list[Event] = []
        for block in blocks(np.asarray(samples, np.float32)):
            events += self._hear(block)
        return events

    def sound(self, start: float, end: float) -> Rows:
        """A copy of the sound from `start` to `end`, in seconds of stream time, for the thread that feeds.

        It is as it was heard: without what was lost. What is gone is left out; the last 12 seconds are not.
        """
        return self._swap.sound(self.place(start), self.place(end))

    def place(self, seconds: float) -> int:
        """Samples heard until `seconds` of stream time, if nothing was lost since then."""
        return round(seconds * SAMPLE_RATE) - self._skipped

    def listen(self, sound: Iterable[Rows]) -> Iterator[Event]:
        """The events in `sound`, an iterable of blocks as for `feed`."""
        for samples in sound:
            yield from self.feed(samples)

    def skip(self, samples: int, overruns: int = 1) -> None:
        """Note that `samples` were lost before the next `feed`: time goes on, and the loss is counted."""
        self._skipped += samples
        self._counters.overruns += overruns
        self._counters.dropped += -(-samples // self._pipeline.task.front_end.hop)

    def join(self, other: Recognizer) -> None:
        """Take part in the stream that `other` is hearing, from now on; nothing before that is reported.

        Call it before the first `feed`, in whichever thread, which takes the time it takes to hear some
        seconds again; and once more, which does not, in the thread that feeds both.
        """
        self._swap.join(other._swap)
        self._begin(other._skipped)

    def miss(self, samples: Rows) -> None:
        """After a `feed` that raised: count `samples`, those not heard, as lost, and begin anew after them.

        Args:
            samples: (n,) as in `feed`, which has heard none of them: at most `pipeline.BLOCK`.
        """
        position = self._swap.position
        self._swap.miss(samples)
        self._follow(position)
        self._scores = np.zeros(len(self._pipeline.task.labels), np.float32)
        self._count(self._pipeline.hop, 0, 0)

    def swap(self, release: Release) -> None:
        """Prepare `release` here; it takes over when it has proved fit beside the one at work.

        Raises:
            DeviceError: FA-4104, FA-4201, FA-4202, it cannot be run; the one at work stays.
            AudioError: FA-1008.
        """
        self._swap.offer(release)

    def goes_back_from(self, version: int, reason: str) -> None:
        """Note that this begins in place of `version`, in whose trial the listener ended."""
        self._counters.rollbacks += 1
        self._swap.messages.append(Swap("rolled-back", version, self.version, reason))

    def swaps(self) -> list[Swap]:
        """What became of swaps since this was last asked."""
        told, messages = [], self._swap.messages
        while messages:
            told.append(dataclasses.replace(messages.popleft(), task=self._name))
        return told

    def failures(self) -> list[tuple[Release, str]]:
        """Releases that shadowed or worked here and are not to be tried again, and why, since this was last
        asked; any thread may, but one.
        """
        failures = self._swap.failures
        return [failures.popleft() for _ in range(len(failures))]

    def reset(self) -> None:
        """Forget everything heard and begin at time 0. The release, its successor and the counters stay."""
        self._swap.reset()
        self._begin()

    def _begin(self, skipped: int = 0) -> None:
        self._pipeline = self._swap.pipeline
        task = self._pipeline.task
        self._detector = Detector(task, self.version, self._owner)
        self._scores = np.zeros(len(task.labels), np.float32)
        self._next_hop = self._pipeline.hop
        self._skipped = skipped

    def _hear(self, samples: Rows) -> list[Event]:
        position = self._swap.position
        first, scores = self._swap.feed(samples, is_open=self._detector.is_open)
        self._follow(position)
        if len(scores) == 0:
            return []
        self._scores = scores[-1]
        front_end = self._pipeline.task.front_end
        ends = np.arange(first, first + len(scores)) * front_end.hop + front_end.window + self._skipped
        events = self._detector.feed(scores, ends)
        if events and self._name != MAIN:
            events = [dataclasses.replace(event, task=self._name) for event in events]
        self._swap.reported(len(events), self._detector.held_seconds)
        self._count(first, len(scores), len(events))
        return events

    def _follow(self, position: int) -> None:
        """Decide by the release that took over at sample `position`, if one did."""
        if self._swap.pipeline is self._pipeline:
            return
        before, self._pipeline = self._pipeline.task.front_end, self._swap.pipeline
        task = self._pipeline.task
        self._scores = np.zeros(len(task.labels), np.float32)  # until its first hop is complete
        if task.front_end != before:
            self._next_hop = task.front_end.frames(position)
        self._detector = self._detector.succeeded_by(task, self.version)

    def _count(self, first: int, hops: int, events: int) -> None:
        """Compare the hops just scored, by the pipeline's own numbering, with those that were due."""
        counters = self._counters
        counters.hops += hops
        counters.events += events
        counters.dropped += max(0, first - self._next_hop)
        counters.doubled += max(0, self._next_hop - first)
        self._next_hop = first + hops
