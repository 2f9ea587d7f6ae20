"""From scores to events: threshold, hysteresis, refractory time. Pure: no clock, no input, no output."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from common.audio.front_end import SAMPLE_RATE
from common.task import Task

NEVER = frozenset({"background", "background_noise", "silence", "unknown"})
"""A label of this name, whatever its case and with or without underscores around it, never triggers."""


def is_background(label: str) -> bool:
    """Whether `label` stands for "nothing to report"."""
    return label.strip("_").lower() in NEVER


@dataclass(frozen=True)
class Event:
    """A label was heard.

    Attributes:
        label: which.
        score: in [0, 1], at the hop that decided.
        start, end: the stretch of sound the score is about, in seconds of stream time, counted in samples.
        version: the release that decided.
    """

    label: str
    score: float
    start: float
    end: float
    version: int

    def to_json(self) -> str:
        """One line of JSON without the line's end."""
        return json.dumps(asdict(self), ensure_ascii=False)


class Detector:
    """Reports a label when it leads all others and reaches the threshold.

    It is then held until its score falls below `release`, and for the refractory time nothing is reported.

    Args:
        task: labels, trigger and front end.
        version: named in the events.
        held: labels that were reported and have not been released yet.
        quiet_until: stream time in samples before which nothing is reported.
    """

    def __init__(self, task: Task, version: int, held: Iterable[str] = (), quiet_until: int = 0) -> None:
        self._task = task
        self._version = version
        self._spoken = np.array([not is_background(label) for label in task.labels])
        already = frozenset(held)
        self._held = np.array([label in already for label in task.labels])
        self._quiet_until = quiet_until
        front_end = task.front_end
        self._span = (task.clip_frames - 1) * front_end.hop + front_end.window
        self._refractory = math.ceil(task.trigger.refractory_seconds * SAMPLE_RATE)

    def feed(self, scores: NDArray[np.float32], ends: NDArray[np.int64]) -> list[Event]:
        """The events in `scores` (hops, labels); `ends` (hops,): where each window ends, in samples."""
        trigger = self._task.trigger
        leaders = scores.argmax(axis=1)
        loud = scores.max(axis=1, initial=0.0) >= trigger.threshold
        holding = bool(self._held.any())
        events = []
        for hop in range(len(scores)):
            if not loud[hop] and not holding:
                continue
            self._held &= scores[hop] >= trigger.release
            leader, end = int(leaders[hop]), int(ends[hop])
            if loud[hop] and self._may_report(leader, end):
                self._held[leader] = True
                self._quiet_until = end + self._refractory
                events.append(self._event(leader, float(scores[hop, leader]), end))
            holding = bool(self._held.any())
        return events

    def succeeded_by(self, task: Task, version: int) -> Detector:
        """The detector of the next release; what is held stays held, so no word is reported by both."""
        held = (label for label, is_held in zip(self._task.labels, self._held, strict=True) if is_held)
        return Detector(task, version, held, self._quiet_until)

    def _may_report(self, label: int, end: int) -> bool:
        return bool(self._spoken[label] and not self._held[label]) and end >= self._quiet_until

    def _event(self, label: int, score: float, end: int) -> Event:
        start = max(0, end - self._span)
        name = self._task.labels[label]
        return Event(name, round(score, 6), start / SAMPLE_RATE, end / SAMPLE_RATE, self._version)
