"""What a detector reported, beside what was said: misses, false accepts, and what one costs in the other."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from common.evaluation.counts import Share
from common.evaluation.intervals import Interval, garwood
from common.evaluation.streams import Word


class Report(Protocol):
    """A label that a detector heard in the stretch of sound [start, end], in seconds; decided at its end."""

    @property
    def label(self) -> str: ...
    @property
    def start(self) -> float: ...
    @property
    def end(self) -> float: ...


@dataclass(frozen=True)
class Hits:
    """How reports and words fit together.

    Args:
        words: how many were said.
        latencies: seconds from the end of each word that was heard to its report, in order of the reports.
        confused: reports of another label in a stretch in which a word was said.
        repeated: further reports of a word.
        spurious: reports where nothing was said.
    """

    words: int
    latencies: tuple[float, ...]
    confused: int = 0
    repeated: int = 0
    spurious: int = 0

    @property
    def missed(self) -> Share:
        """False rejects: words without a report of their own label."""
        return Share(self.words - len(self.latencies), self.words)


def match(words: Sequence[Word], reports: Sequence[Report]) -> Hits:
    """Say of each report whether it is of a word.

    A report is about the words that its stretch of sound overlaps: it is a hit if the first of them with its
    label has not been heard yet.

    Args:
        words: in order of time, apart from each other.
        reports: in order of time.
    """
    ends = [word.end for word in words]
    heard: set[int] = set()
    latencies = []
    confused = repeated = spurious = 0
    for report in reports:
        about = []
        for place in range(bisect_right(ends, report.start), len(words)):
            if words[place].start >= report.end:
                break
            about.append(place)
        of_label = [place for place in about if words[place].label == report.label]
        fresh = [place for place in of_label if place not in heard]
        if fresh:
            heard.add(fresh[0])
            latencies.append(report.end - words[fresh[0]].end)
        elif of_label:
            repeated += 1
        elif about:
            confused += 1
        else:
            spurious += 1
    return Hits(len(words), tuple(latencies), confused, repeated, spurious)


@dataclass(frozen=True)
class Rate:
    """`events` in so many `hours`, which are more than none."""

    events: int
    hours: float

    @property
    def per_hour(self) -> float:
        return self.events / self.hours

    @property
    def interval(self) -> Interval:
        """Of `per_hour`, at 95 %."""
        return garwood(self.events, self.hours)


@dataclass(frozen=True)
class Point:
    """What a detector does at one threshold.

    Args:
        hits: on a stream of words.
        accepts: false accepts by what was heard, where no word was said.
        hours: of each of these.
    """

    threshold: float
    hits: Hits
    accepts: dict[str, int]
    hours: dict[str, float]

    @property
    def false_rejects(self) -> Share:
        return self.hits.missed

    @property
    def accepts_per_hour(self) -> float:
        """Over all that was heard; 0 if that was nothing.

        Sounds that are unlike are one here, so it depends on how much there was of each: see `rates`.
        """
        return sum(self.accepts.values()) / max(sum(self.hours.values()), 1e-9)

    @property
    def accepts_interval(self) -> Interval:
        """Of `accepts_per_hour`, at 95 %."""
        return garwood(sum(self.accepts.values()), sum(self.hours.values()))

    @property
    def rates(self) -> dict[str, Rate]:
        """False accepts by what was heard."""
        return {name: Rate(count, self.hours[name]) for name, count in self.accepts.items()}


def best_at(points: Sequence[Point], accepts_per_hour: float) -> Point | None:
    """The point that misses least of those with no more false accepts; None if all have more."""
    allowed = [point for point in points if point.accepts_per_hour <= accepts_per_hour]
    return min(allowed, key=lambda p: (p.hits.missed.hits, p.accepts_per_hour, -p.threshold), default=None)


def det_curve(points: Sequence[Point]) -> list[Point]:
    """The points worth choosing, in order of false accepts: each further one misses less.

    What a detector does need not be monotone in its threshold, for a false accept may silence it for the
    word that follows.
    """
    curve: list[Point] = []
    for point in sorted(points, key=lambda p: (p.accepts_per_hour, p.hits.missed.hits, -p.threshold)):
        if not curve or point.hits.missed.hits < curve[-1].hits.missed.hits:
            curve.append(point)
    return curve
