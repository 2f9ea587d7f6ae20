"""A release that listens to hours of sound, by the parts the listener is made of: scored once, and then
decided at one threshold after another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.audio.front_end import SAMPLE_RATE
from common.evaluation.detection import Point, match
from common.evaluation.streams import Stretch, Word
from common.protocol.release import Release
from common.task import Task, Trigger
from fl_client.listen.events import Event
from fl_client.listen.pipeline import Pipeline, blocks
from fl_client.listen.trigger import Detector

SWEEP = np.arange(12.0, -2.1, -0.2)
"""Thresholds as natural log odds, the strictest first: from 1 - 6e-6 to .12."""

MOST_ACCEPTS = 300.0
"""False accepts an hour beyond which no lower threshold is tried: nobody would want it."""

_HOPS = 50
"""Hops decided at a time. The detector is quick about a block in which nothing is near a threshold."""


@dataclass(frozen=True, eq=False)
class Heard:
    """What a release made of a stream.

    Args:
        scores: (hops, labels).
        ends: where the window of each hop ends, in samples.
        words: what was said.
    """

    scores: NDArray[np.float32]
    ends: NDArray[np.int64]
    words: tuple[Word, ...]
    seconds: float


def hear(release: Release, sound: Iterable[Stretch], advance: Callable[[float], None]) -> Heard:
    """Play `sound`, one stream, to `release`.

    Args:
        advance: called with the seconds heard since the last call.

    Raises:
        DeviceError: FA-4201, FA-4202.
        AudioError: FA-1008.
    """
    pipeline, front_end = Pipeline(release), release.manifest.task.front_end
    scores: list[NDArray[np.float32]] = [np.empty((0, len(release.manifest.task.labels)), np.float32)]
    words: list[Word] = []
    samples = 0
    for stretch in sound:
        scores += [pipeline.feed(block) for block in blocks(stretch.samples)]
        words += stretch.words
        samples += len(stretch.samples)
        advance(len(stretch.samples) / SAMPLE_RATE)
    rows = np.concatenate(scores)
    ends = np.arange(len(rows)) * front_end.hop + front_end.window
    return Heard(rows, ends, tuple(words), samples / SAMPLE_RATE)


def events_in(heard: Heard, task: Task) -> list[Event]:
    """What the listener would have reported with the trigger of `task`."""
    detector = Detector(task, 0)
    return [
        event
        for start in range(0, len(heard.ends), _HOPS)
        for event in detector.feed(heard.scores[start : start + _HOPS], heard.ends[start : start + _HOPS])
    ]


def decide(task: Task, words: Heard, others: Mapping[str, Heard]) -> Point:
    """The trigger of `task` on a stream of words and on streams without any, by name."""
    return Point(
        task.trigger.threshold,
        match(words.words, events_in(words, task)),
        {name: len(events_in(heard, task)) for name, heard in others.items()},
        {name: heard.seconds / 3600 for name, heard in others.items()},
    )


def sweep(task: Task, words: Heard, others: Mapping[str, Heard]) -> list[Point]:
    """`decide` at many thresholds; the one below which a label is released keeps its proportion."""
    points = []
    for odds in np.exp(SWEEP):
        points.append(decide(with_threshold(task, float(odds / (1 + odds))), words, others))
        if points[-1].accepts_per_hour > MOST_ACCEPTS:
            break
    return points


def with_threshold(task: Task, threshold: float) -> Task:
    """`task` with another threshold."""
    trigger = task.trigger
    release = threshold * trigger.release / trigger.threshold
    changed = Trigger.model_validate(trigger.model_dump() | {"threshold": threshold, "release": release})
    return task.model_copy(update={"trigger": changed})
