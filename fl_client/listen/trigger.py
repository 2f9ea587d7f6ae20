"""From scores to events: smoothing, thresholds, hysteresis, refractory time. Pure: no clock, no input, no
output.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from common.audio.front_end import SAMPLE_RATE
from common.task import Task, is_background
from fl_client.listen.events import Event
from fl_client.listen.settings import ListenSettings

Scores = NDArray[np.float32]


class Detector:
    """Reports a label when its smoothed score leads all others and reaches the label's threshold.

    The smoothed score is the mean of the scores of the last `smoothing_seconds`. A label that was reported is
    held until its smoothed score falls below its release level, which is to its threshold as `release` is to
    `threshold` in the task's trigger. After an event nothing is reported for the refractory time.

    What is reported does not depend on how the scores are cut into blocks.

    Args:
        task: labels, trigger and front end.
        version: named in the events.
        owner: thresholds of labels and smoothing that go before the task's.
    """

    def __init__(self, task: Task, version: int, owner: ListenSettings | None = None) -> None:
        self._task = task
        self._version = version
        self._owner = owner or ListenSettings()
        trigger, front_end = task.trigger, task.front_end
        own = self._owner.thresholds
        thresholds = np.array(
            [np.inf if is_background(label) else own.get(label, trigger.threshold) for label in task.labels]
        )
        self._thresholds = thresholds.astype(np.float32)
        self._releases = (thresholds * (trigger.release / trigger.threshold)).astype(np.float32)
        smoothing = self._owner.smoothing_seconds
        seconds = trigger.smoothing_seconds if smoothing is None else smoothing
        self._hop_seconds = front_end.hop_seconds
        self._smoothed = max(1, round(seconds / self._hop_seconds))
        self._span = (task.clip_frames - 1) * front_end.hop + front_end.window
        self._refractory = math.ceil(trigger.refractory_seconds * SAMPLE_RATE)
        self.reset()

    def reset(self) -> None:
        """Forget all: the next score is the first."""
        labels = len(self._task.labels)
        self._recent = np.zeros((self._smoothed, labels), np.float32)
        self._held = np.zeros(labels, bool)
        self._held_hops = np.zeros(labels, np.int64)
        self._held_before: dict[str, float] = {}
        self._quiet_until = 0

    @property
    def held_seconds(self) -> dict[str, float]:
        """For how long each label has been held so far, this detector's predecessors included."""
        held = dict(self._held_before)
        for column in np.flatnonzero(self._held_hops).tolist():
            label, seconds = self._task.labels[column], self._held_hops[column] * self._hop_seconds
            held[label] = held.get(label, 0.0) + float(seconds)
        return held

    @property
    def is_open(self) -> bool:
        """Whether a label is held, or may be on its way to be reported."""
        return bool(self._held.any() or (self._recent >= self._thresholds).any())

    @property
    def leading(self) -> tuple[str, float] | None:
        """The label that leads at the newest hop and its smoothed score, if that reaches its threshold."""
        scores = (np.add.reduce(self._recent, axis=0, dtype=np.float64) / self._smoothed).astype(np.float32)
        leader = int(scores.argmax())
        if not scores[leader] >= self._thresholds[leader]:
            return None
        return self._task.labels[leader], round(float(scores[leader]), 6)

    @property
    def memory(self) -> int:
        """Hops that a smoothed score is the mean of."""
        return self._smoothed

    def feed(self, scores: Scores, ends: NDArray[np.int64]) -> list[Event]:
        """The events in `scores` (hops, labels); `ends` (hops,): where each window ends, in samples."""
        rows = np.concatenate((self._recent, scores))
        self._recent = rows[len(scores) :]
        # A mean reaches a threshold only if something in it does, and that is rare.
        if not self._held.any() and not (rows >= self._thresholds).any():
            return []
        events = []
        for hop, end in enumerate(ends.tolist(), 1):
            # One hop at a time: the sum must be the same to the last bit whatever block the hop came in.
            total = np.add.reduce(rows[hop : hop + self._smoothed], axis=0, dtype=np.float64)
            event = self._decide((total / self._smoothed).astype(np.float32), end)
            if event is not None:
                events.append(event)
            self._held_hops += self._held
        return events

    def succeeded_by(self, task: Task, version: int) -> Detector:
        """The detector of the next release; what is held stays held, so no word is reported by both."""
        following = Detector(task, version, self._owner)
        following._quiet_until = self._quiet_until
        following._held_before = self.held_seconds
        known = {label: column for column, label in enumerate(self._task.labels)}
        past = _resized(self._recent, len(following._recent))
        for column, label in enumerate(task.labels):
            if label in known:
                following._held[column] = self._held[known[label]]
                following._recent[:, column] = past[:, known[label]]
        return following

    def _decide(self, scores: Scores, end: int) -> Event | None:
        self._held &= scores >= self._releases
        leader = int(scores.argmax())
        if self._held[leader] or end < self._quiet_until or not scores[leader] >= self._thresholds[leader]:
            return None
        self._held[leader] = True
        self._quiet_until = end + self._refractory
        start = max(0, end - self._span)
        name, score = self._task.labels[leader], round(float(scores[leader]), 6)
        return Event(name, score, start / SAMPLE_RATE, end / SAMPLE_RATE, self._version)


def _resized(rows: Scores, count: int) -> Scores:
    """The last `count` of `rows`; where there are fewer, the oldest stands for those before it."""
    if count <= len(rows):
        return rows[-count:]
    return np.pad(rows, ((count - len(rows), 0), (0, 0)), "edge")
