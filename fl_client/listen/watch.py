"""Looks at a release that has just taken over: is it fast enough, and does it not report far too much?"""

from __future__ import annotations

import math

from common.audio.front_end import SAMPLE_RATE
from common.task import Task
from fl_client.listen.limits import SwapLimits

SHORTEST_REFRACTORY = 0.1
"""Seconds; a trigger without a refractory time has no highest rate."""


class Watch:
    """The first `watch_seconds` of a release at work.

    Args:
        task: of the release.
        begin: sample at which it took over.
        rate: events per second before.
        cost: processor time per hop, in seconds, of the release before.
    """

    def __init__(self, task: Task, limits: SwapLimits, begin: int, rate: float, cost: float) -> None:
        refractory = max(task.trigger.refractory_seconds, SHORTEST_REFRACTORY)
        self._limits = limits
        self._begin = begin
        self._rate = max(limits.rate_jump * rate, limits.busy / refractory)
        self._budget = limits.budget(cost, task.front_end.hop_seconds)
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
        each = self._seconds / self._hops
        self._seconds, self._hops = 0.0, 0
        if each <= self._budget:
            return None
        return f"it took {each * 1e3:.2f} ms a hop, more than {self._budget * 1e3:.2f} ms"

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


def poisson_tail(count: int, mean: float) -> float:
    """Upper bound of the probability that a Poisson number of this mean is `count` or more (Chernoff)."""
    if count <= mean:
        return 1.0
    if mean <= 0:
        return 0.0
    return math.exp(count - mean - count * math.log(count / mean))
