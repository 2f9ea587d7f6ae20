"""Looks at a release that has just taken over: is it fast enough, and does it not report far too much?"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from common.audio.front_end import SAMPLE_RATE
from common.task import Task
from fl_client.listen.limits import SwapLimits
from fl_client.listen.pipeline import Pipeline
from fl_client.listen.ring import Ring
from fl_client.listen.settings import ListenSettings
from fl_client.listen.trigger import Detector

SHORTEST_REFRACTORY = 0.5
"""Seconds; nobody says words faster, and a trigger without a refractory time has no highest rate."""


class Watch:
    """The first `watch_seconds` of a release at work.

    Args:
        task: of the release.
        before: that of the one before.
        begin: sample at which it took over.
        rate: events per second before.
        cost: processor time per second of stream, in seconds, of the release before.
        held: seconds for which each label was held before, of the `heard` seconds.
    """

    def __init__(
        self,
        task: Task,
        before: Task,
        limits: SwapLimits,
        begin: int,
        rate: float,
        cost: float,
        held: Mapping[str, float],
        heard: float,
    ) -> None:
        waits = (task.trigger.refractory_seconds, before.trigger.refractory_seconds)
        refractory = max(*waits, SHORTEST_REFRACTORY)
        self._limits = limits
        self._begin = begin
        self._rate = max(limits.rate_jump * rate, limits.busy / refractory)
        self._budget = limits.budget(cost)
        self._hop_seconds = task.front_end.hop_seconds
        self._held, self._heard = dict(held), heard
        self._named: set[str] = set()
        self._events = 0
        self._seconds, self._hops = 0.0, 0

    def over(self, position: int) -> bool:
        """Whether there is nothing to watch any more at sample `position`."""
        return position - self._begin >= self._limits.watch_seconds * SAMPLE_RATE

    def scored(self, hops: int, seconds: float) -> str | None:
        """What is wrong, if anything, after `hops` that took `seconds` of processor time."""
        self._hops += hops
        self._seconds += seconds
        if self._hops < self._limits.late_hops:
            return None
        own = self._seconds / self._hops / self._hop_seconds
        self._seconds, self._hops = 0.0, 0
        if own <= self._budget:
            return None
        return f"it took {own:.0%} of the processor, more than {self._budget:.0%}"

    def reported(self, events: int, position: int) -> str | None:
        """What is wrong, if anything, after `events` more up to sample `position`."""
        if events == 0:
            return None
        self._events += events
        seconds = (position - self._begin) / SAMPLE_RATE
        # The n-th event gets its share 1/n(n+1) of the false alarms: however many come, they add up to one.
        share = self._limits.false_alarm / (self._events * (self._events + 1))
        if poisson_tail(self._events, self._rate * seconds) > share:
            return None
        return (
            f"it reported {self._events} events in {seconds:.0f} s, where {self._rate:.2g} a second are many"
        )

    def stuck(self, held: Mapping[str, float], position: int) -> str | None:
        """A label that is held for far too long, if there is one by sample `position`; each is named once.

        Args:
            held: seconds for which each has been held, those before included.
        """
        limits, seconds = self._limits, (position - self._begin) / SAMPLE_RATE
        if seconds < limits.held_seconds:
            return None
        for label in held.keys() - self._named:
            before = self._held.get(label, 0.0)
            usual = limits.rate_jump * before / self._heard
            if (held[label] - before) / seconds > max(limits.held_share, usual):
                self._named.add(label)
                return label
        return None


def is_deaf(pipeline: Pipeline, label: str, recent: Ring, owner: ListenSettings, limits: SwapLimits) -> bool:
    """Whether a pipeline that knows `label` would not hold it for long in the newest seconds, by the owner's
    thresholds."""
    if label not in pipeline.task.labels:
        return False
    try:
        scores = pipeline.catch_up(recent)
    except Exception:  # noqa: BLE001 - whatever it is, it is no witness
        pipeline.start(0)  # its state may be half of one hop and half of the next
        return False
    # Where it had to begin anew it takes half of them to know where it is.
    newest, front_end = scores[len(scores) // 2 :], pipeline.task.front_end
    detector = Detector(pipeline.task, pipeline.release.version, owner)
    detector.feed(newest, np.arange(len(newest)) * front_end.hop + front_end.window)
    held = detector.held_seconds.get(label, 0.0)
    return len(newest) > 0 and held < limits.held_share * len(newest) * front_end.hop_seconds


def poisson_tail(count: int, mean: float) -> float:
    """Upper bound of the probability that a Poisson number of this mean is `count` or more (Chernoff)."""
    if count <= mean:
        return 1.0
    if mean <= 0:
        return 0.0
    return math.exp(count - mean - count * math.log(count / mean))
