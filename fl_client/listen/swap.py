"""Hot swap: one release takes over from another in the middle of a stream, and gives back what it cannot do.

The contract, for `HotSwap`:

1. No hop is lost or scored twice, whatever happens when. Each hop is scored by exactly one release.
2. A new release is loaded, warmed up, tried on the golden clip and taken through the recent past in the
   thread that offers it. So its scores are those it would give had it listened from the start.
3. It then shadows: a thread of its own lets it score the live sound, unheard, for `shadow_seconds`. It takes
   over if its scores are numbers, if its processor time per second of sound is within the budget, and if it
   agrees with the release at work on enough of what both are sure of. The feeding thread never waits for it.
   If another release comes to work meanwhile, the shadow begins anew beside that.
4. The switch comes between two hops and costs the hops the shadow is behind: 0.05 s of sound or two blocks;
   more only if it stays further behind for `wait_seconds`. Nor does it come inside an open trigger, unless
   that is open for so long; then it says so.
5. The release before is kept, warm. It takes back over at once, from the very hop on, if the new one raises
   anything or its scores are no numbers, at any time; and if, in the first `watch_seconds`, the new one is
   too slow, reports far too much, or holds a label on and on that the one before does not hear. What it has
   missed it hears again from the recent past. That holds up the feeding thread while `memory` samples at most
   are scored, some seconds of sound in some hundredths of a second; a live source keeps 4 s meanwhile. Where
   there is no release before, what went wrong is raised.
6. Of two releases that disagree with the one at work the second takes over: then the odd one is that at work.
   So does one by which the coordinator restores an older version.
7. Every outcome is a `Swap` message and a counter.
8. Others that hear the same stream share its front ends, and nothing else: what one of them swaps, takes back
   or cannot run is nothing to the others.

It does not remember across restarts; `fl_client.listen.trials` does. Nor can it end a graph that does not
come to an end by itself: see `fl_client.listen.watchdog`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from common.audio.front_end import SAMPLE_RATE
from common.errors import DeviceError, FedAudioError
from common.protocol.release import Release
from fl_client.listen.counters import Counters
from fl_client.listen.engine import Frames, first_line
from fl_client.listen.events import Outcome, Swap
from fl_client.listen.front_ends import FrontEnds
from fl_client.listen.gate import Gate
from fl_client.listen.limits import SwapLimits
from fl_client.listen.loudness import TICK
from fl_client.listen.pipeline import Pipeline
from fl_client.listen.preparing import catch_up, prepare
from fl_client.listen.ring import Ring, Rows
from fl_client.listen.settings import ListenSettings
from fl_client.listen.shadow import Shadow, tops
from fl_client.listen.watch import Watch, is_deaf

HISTORY = 12 * SAMPLE_RATE
"""Samples kept at least, from which a new release learns what was just heard."""

SLICE = SAMPLE_RATE // 10
"""Samples a shadow is given at least in one turn, until it is ready."""

CLOSE = SAMPLE_RATE // 20
"""Samples a shadow may be behind when it takes over; what is missing holds up the feeding thread."""

NOT_NUMBERS = "its scores are not numbers"


class HotSwap:
    """The releases that score one stream one after the other. See the contract above.

    One thread feeds it; `offer` may be called by any.

    Attributes:
        pipeline: of the release at work.
        messages: what became of swaps, for who takes it from there.
        failures: releases that shadowed or worked here and are not to be tried again, and why; likewise.

    Args:
        release: the first.
        limits: what the following ones must keep to.
        counters: where swaps, refusals, rollbacks, gaps and gated hops are counted.
        owner: with whose thresholds events are made, and whose gate lets the release at work rest.
        front_ends: of those who hear the same stream in the same thread, if there are any.

    Raises:
        DeviceError: FA-4104, FA-4201, FA-4202, the release cannot be run.
        AudioError: FA-1008, its front end is impossible.
    """

    def __init__(
        self,
        release: Release,
        limits: SwapLimits,
        counters: Counters,
        owner: ListenSettings | None = None,
        front_ends: FrontEnds | None = None,
    ) -> None:
        self._owner = owner or ListenSettings()
        self._front_ends = front_ends
        self.pipeline = prepare(release)
        self.messages: deque[Swap] = deque()
        self.failures: deque[tuple[Release, str]] = deque()
        self._limits = limits
        self._counters = counters
        self._lock = threading.Lock()  # held for a copy of the recent samples at most
        self._worker = ThreadPoolExecutor(1, "shadow")
        self._shadow: Shadow | None = None
        self._previous: Pipeline | None = None
        self._watch: Watch | None = None
        self._disagreed = False
        self._fault: str | None = None
        self._events = self._events_before = 0
        self._held: Mapping[str, float] = {}
        self._life = 0
        self.reset()

    @property
    def position(self) -> int:
        """Samples heard."""
        return self._recent.end

    @property
    def shadowed(self) -> bool:
        """Whether a release is waiting to take over."""
        return self._shadow is not None

    @property
    def on_trial(self) -> bool:
        """Whether a release is waiting to take over, or has done so and is still watched."""
        return self._shadow is not None or self._watch is not None

    @property
    def proved(self) -> Release | None:
        """The release at work, if it has been so for `watch_seconds` and nothing was wrong."""
        release, heard = self.pipeline.release, self.position - self._since
        if heard < self._limits.watch_seconds * SAMPLE_RATE or self._watch is not None or self._fault:
            return None
        return release if release is self.pipeline.release else None

    def offer(self, release: Release) -> None:
        """Prepare `release` here; then let it shadow the one at work and take over. A later one replaces it.

        Raises:
            DeviceError: FA-4104, FA-4201, FA-4202; the one at work stays.
            AudioError: FA-1008.
        """
        try:
            pipeline = prepare(release, self.pipeline)
            with self._lock:
                life, recent = self._life, self._recent.copy()
            catch_up(pipeline, recent)
        except FedAudioError as error:
            self._refuse(release, error.happened)
            raise
        with self._lock:
            if life != self._life:
                pipeline.start(0)  # what it has heard was forgotten meanwhile
            self._shadow = self._shadow_of(pipeline)

    def feed(self, samples: Rows, *, is_open: bool) -> tuple[int, Frames]:
        """Score the next `samples` (n,), by another release than before if one is ready.

        Args:
            is_open: whether a trigger is open, so that a swap had better wait.

        Returns:
            Index of the first hop, in the grid of `pipeline`, and scores (hops, labels).

        Raises:
            Exception: what the release at work raises, if there is none before it.
            RuntimeError: so too if its scores are no numbers.
        """
        self._tend(len(samples), is_open)
        if self._gate is not None:
            self._gate.feed(samples)
        scores = self._score(samples)
        with self._lock:
            self._recent.append(samples)
        if len(scores):
            self._said.append(tops(scores))
        return self.pipeline.hop - len(scores), scores

    def sound(self, first: int, last: int) -> Rows:
        """A copy of the samples `first` to `last`, without those that are gone; the last 12 s are not."""
        first = max(first, self._recent.begin)
        return self._recent.since(first)[: max(0, last - first)]

    def reported(self, events: int, held: Mapping[str, float]) -> None:
        """Note how many events came of what the last `feed` gave, and the seconds each label was held."""
        self._events, self._held = self._events + events, held
        if self._watch is None:
            return
        self._fault = self._fault or self._watch.reported(events, self.position)
        label = self._watch.stuck(held, self.position)
        before = self._previous
        if label and before and is_deaf(before, label, self._recent, self._owner, self._limits):
            self._fault = f"it held {label} on and on, which the version before did not hear"
        if self._fault is None and self._watch.over(self.position):
            self._watch = None

    def reset(self) -> None:
        """Forget the stream and begin at time 0. Releases and messages stay."""
        with self._lock:
            shadow, self._life = self._shadow, self._life + 1
            self._recent = Ring(max(HISTORY, self.pipeline.memory))
        if self._front_ends is not None:
            self._front_ends.forget()
        self._joined_at = self._since = 0
        self._gate = self._gate_now()
        self.pipeline.start(0)
        if self._previous is not None:
            self._previous.start(0)
        if shadow is not None:
            shadow.end_turn()
            shadow.pipeline.start(0)
            with self._lock:
                if self._shadow is shadow:
                    self._shadow = self._shadow_of(shadow.pipeline)
        self._watch, self._fault = None, None
        self._events, self._held = 0, {}
        self._begin()

    def join(self, other: HotSwap) -> None:
        """Hear what `other` has just heard, and go on from there. Call it before the first `feed`, in
        whichever thread; and again, which takes less time, in the thread that feeds both.

        A release that cannot be run on that sound goes on without it.
        """
        with other._lock:
            recent = other._recent.resized(max(HISTORY, self.pipeline.memory))
        with self._lock:
            self._recent = recent
        try:
            catch_up(self.pipeline, recent)
        except DeviceError:
            self.pipeline.start(recent.end)
        self._gate = self._gate_now()
        self._joined_at = self._since = recent.end
        self._begin()

    def miss(self, samples: Rows) -> None:
        """After a `feed` of `samples` that raised: let the release at work begin anew with what follows."""
        with self._lock:
            self._recent.append(samples)
        self._since = self.position
        self.pipeline.start(self._since)
        self._gate = self._gate_now()
        self._begin()

    def _tend(self, incoming: int, is_open: bool) -> None:
        """Before the next hop: take back, refuse, take over or give the shadow a turn, if it is time to."""
        if self._fault is not None:
            self._fall_back(self._fault)
        shadow = self._shadow
        if shadow is None or not shadow.idle:
            return
        shadow.end_turn()
        if shadow.fault is not None and not shadow.disagrees:
            self._reject(shadow, shadow.fault)
            return
        if shadow.beside is not self.pipeline:  # what it was compared with is at work no more
            with self._lock:
                if self._shadow is shadow:
                    self._shadow = self._shadow_of(shadow.pipeline)
            return
        if shadow.fault is not None:
            self._disagreed = True
            self._reject(shadow, shadow.fault)
            return
        behind = self.position - shadow.pipeline.position
        if shadow.ready_at is not None:
            waited = (self.position - shadow.ready_at) / SAMPLE_RATE
            is_close = self._limits.shadow_seconds == 0 or behind <= max(CLOSE, 2 * incoming)
            if (is_close and not is_open) or waited >= self._limits.wait_seconds:
                self._take_over(shadow, waited, is_open)
                return
        if behind >= (SLICE if shadow.ready_at is None else 1):
            shadow.take_turn(self._worker, self._recent, self._said, self._cost)

    def _take_over(self, shadow: Shadow, waited: float, is_open: bool) -> None:
        began, pipeline, before = time.perf_counter(), shadow.pipeline, self.pipeline
        try:
            catch_up(pipeline, self._recent)
        except DeviceError as error:
            self._reject(shadow, error.happened)
            return
        heard = max(1.0, (self.position - self._joined_at) / SAMPLE_RATE)
        rate = self._events / heard
        self._previous, self._disagreed, self._events_before = before, False, self._events
        # In this order `on_trial` and `proved` are right throughout, for whoever asks from another thread.
        self._since = self.position
        self._watch = Watch(
            pipeline.task, before.task, self._limits, self._since, rate, self._cost, self._held, heard
        )
        with self._lock:
            if pipeline.memory > self._recent.capacity:
                self._recent = self._recent.resized(pipeline.memory)
            self.pipeline = pipeline
        self._withdraw(shadow)
        self._begin()
        reason = f"a trigger was open for {waited:.1f} s" if is_open else ""
        self._switched("swapped", before, reason, began, shadow.agreement, round(waited, 3))

    def _fall_back(self, reason: str) -> None:
        """Let the release before take back over, from the next sample on."""
        began, failed, before = time.perf_counter(), self.pipeline, self._previous
        assert before is not None  # noqa: S101
        before.catch_up(self._recent)
        self._events, self._since = self._events_before, self.position
        self.failures.append((failed.release, reason))
        with self._lock:
            self.pipeline = before
        # Last, so that who sees that the trial is over sees by whom it was won.
        self._previous, self._watch, self._fault = None, None, None
        self._begin()
        self._switched("rolled-back", failed, reason, began)

    def _score(self, samples: Rows) -> Frames:
        """Scores of the hops that `samples` complete; by the release before, if the one at work fails."""
        began = time.thread_time()
        try:
            scores = self.pipeline.feed(samples, self._gate, self._front_ends)
            if not np.isfinite(scores).all():
                raise RuntimeError(NOT_NUMBERS)
        except Exception as error:
            if self._previous is None:
                self._since = self.position
                raise
            self._fall_back(f"it failed: {first_line(error)}")
            return self._score(samples)
        seconds = time.thread_time() - began
        self._counters.gated += self.pipeline.gated
        if not self.pipeline.gated:  # a rest says nothing of what scoring costs
            self._seconds += seconds
            self._hops += len(scores)
        if self._watch is not None:
            self._fault = self._fault or self._watch.scored(len(scores), seconds)
        return scores

    @property
    def _cost(self) -> float:
        """Processor time per second of stream of the release at work, in seconds."""
        return self._seconds / max(1, self._hops) / self.pipeline.task.front_end.hop_seconds

    def _gate_now(self) -> Gate | None:
        """A gate that has heard the newest samples, if one is wished."""
        if self._owner.gate_db is None:
            return None
        tick = -(-self._recent.begin // TICK)
        gate = Gate(self._owner.gate_db, tick)
        gate.feed(self._recent.since(tick * TICK))
        return gate

    def _begin(self) -> None:
        """Take down anew what the release at work says and costs."""
        hops = HISTORY // self.pipeline.task.front_end.hop
        self._said = Ring(hops, (2,), self.pipeline.hop)
        self._seconds, self._hops = 0.0, 0

    def _shadow_of(self, pipeline: Pipeline) -> Shadow:
        restores = pipeline.release.manifest.restores is not None
        agreement = 0.0 if restores or self._disagreed else self._limits.agreement
        return Shadow(pipeline, self.pipeline, agreement, self._limits)

    def _withdraw(self, shadow: Shadow) -> None:
        with self._lock:
            if self._shadow is shadow:  # else another was offered meanwhile
                self._shadow = None

    def _reject(self, shadow: Shadow, reason: str) -> None:
        """Refuse what has shadowed."""
        self._withdraw(shadow)
        self.failures.append((shadow.pipeline.release, reason))
        self._refuse(shadow.pipeline.release, reason, shadow.agreement)

    def _refuse(self, release: Release, reason: str, agreement: float | None = None) -> None:
        self._counters.refused += 1
        at, work = round(self.position / SAMPLE_RATE, 3), self.pipeline.release.version
        self.messages.append(Swap("refused", work, release.version, reason, at, agreement=agreement))

    def _switched(
        self,
        outcome: Outcome,
        before: Pipeline,
        reason: str,
        began: float,
        agreement: float | None = None,
        waited: float = 0.0,
    ) -> None:
        """Tell that the release at work has taken over from that of `before`."""
        versions = before.release.version, self.pipeline.release.version
        gap, at = time.perf_counter() - began, round(self.position / SAMPLE_RATE, 3)
        self.messages.append(Swap(outcome, *versions, reason, at, round(gap, 6), agreement, waited))
        self._counters.swapped(gap, back=outcome == "rolled-back")
