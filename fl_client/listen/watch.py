"""Looks at a release that has just taken over: is it fast enough, and does it not report far too much?"""

from __future__ import annotations

import math
from collections.abc import Mapping

from common.audio.front_end import SAMPLE_RATE
from common.task import Task
from fl_client.listen.engine import GRAPH_ERRORS
from fl_client.listen.limits import SwapLimits
from fl_client.listen.pipeline import Pipeline
from fl_client.listen.ring import Ring

SHORTEST_REFRACTORY = 0.1
"""Seconds; a trigger without a refractory time has no highest rate."""


class Watch:
    """The first `watch_seconds` of a release at work.

    Args:
        task: of the release.
        begin: sample at which it took over.
        rate: events per second before.
        cost: processor time per hop, in seconds, of the release before.
        held: seconds for which each label was held before, of the `heard` seconds.
    """

    def __init__(
        self,
        task: Task,
        limits: SwapLimits,
        begin: int,
        rate: float,
        cost: float,
        held: Mapping[str, float],
        heard: float,
    ) -> None:
        refractory = max(task.trigger.refractory_seconds, SHORTEST_REFRACTORY)
        self._limits = limits
        self._begin = begin
        self._rate = max(limits.rate_jump * rate, limits.busy / refractory)
        self._budget = limits.budget(cost, task.front_end.hop_seconds)
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


def is_deaf(pipeline: Pipeline, label: str, recent: Ring) -> bool:
    """Whether a pipeline that knows `label` does not hear it in the newest seconds."""
    if label not in pipeline.task.labels:
        return False
    try:
        scores = pipeline.catch_up(recent)[:, pipeline.task.labels.index(label)]
    except GRAPH_ERRORS:
        return False
    # Where it had to begin anew it takes half of them to know where it is.
    newest = scores[len(scores) // 2 :]
    return len(newest) > 0 and float((newest >= pipeline.task.trigger.release).mean()) < 0.5


def poisson_tail(count: int, mean: float) -> float:
    """Upper bound of the probability that a Poisson number of this mean is `count` or more (Chernoff)."""
    if count <= mean:
        return 1.0
    if mean <= 0:
        return 0.0
    return math.exp(count - mean - count * math.log(count / mean))
