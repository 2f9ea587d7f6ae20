"""Finds the threshold at which a release is wrong as seldom as the owner wishes, on recordings in which none
of its labels is heard.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from common.audio.front_end import SAMPLE_RATE
from common.errors import DeviceError
from common.evaluation.intervals import CONFIDENCE, garwood
from common.protocol.release import Release
from common.task import Task, is_background
from fl_client.listen.pipeline import Pipeline, blocks
from fl_client.listen.settings import ListenSettings
from fl_client.listen.trigger import Detector, Scores

HIGHEST_LOGIT, STEP = 9.2, 0.2
"""Thresholds are tried from 0.9999 down, in equal steps of the logarithm of odds: scores gather near 1."""

Stretch: TypeAlias = tuple[Scores, NDArray[np.int64]]
"""Scores (hops, labels) and where their windows end (hops,), in samples."""


@dataclass(frozen=True)
class Calibration:
    """What was found.

    Attributes:
        hours: sound heard.
        wish: false accepts per hour, all labels together, that were not to be exceeded.
        thresholds: of each label that can be reported.
        false_accepts: events at these thresholds, by label.
        most: false accepts that there might have been at these thresholds; see `at_most`.
    """

    hours: float
    wish: float
    thresholds: Mapping[str, float]
    false_accepts: Mapping[str, int]
    most: int

    @property
    def total(self) -> int:
        """False accepts of all labels."""
        return sum(self.false_accepts.values())

    @property
    def per_hour(self) -> float:
        """False accepts per hour, as counted."""
        return self.total / self.hours

    @property
    def at_most(self) -> float:
        """False accepts per hour that are not exceeded, at 95 %.

        It holds although the threshold was chosen on the very sound that it is counted on. A threshold that
        is lowered until just above the next false accept but `k` has a mean of more than `poisson_bound(k)`
        in 5 % of all cases, as one that was given has. So the count that bounds it is the number at which
        it would have stopped, `most`, even if it is some steps above it.
        """
        return poisson_bound(self.most) / self.hours

    @property
    def hours_needed(self) -> float:
        """Hours without any false accept that would show the wish to be met, at 95 %."""
        return poisson_bound(0) / self.wish

    @property
    def is_enough(self) -> bool:
        """Whether so much was heard, and so little of it accepted, that the wish is shown to be met."""
        return self.at_most <= self.wish


def poisson_bound(count: int) -> float:
    """The mean above which `count` or fewer events are seen less than 5 times in 100: 3.0 for none.

    One side of an interval that leaves out as much on the other.
    """
    return garwood(count, 1.0, 2 * CONFIDENCE - 1).high


class Negatives:
    """What a release makes of recordings, one after the other as if they were one.

    Of hours of scores only those near a score that could matter are kept: at any threshold from
    `trigger.release` up the detector reports of them what it reports of all.
    """

    def __init__(self, release: Release, owner: ListenSettings) -> None:
        self._owner = owner
        self._pipeline = Pipeline(release)
        self._version = release.version
        self.task: Task = release.manifest.task
        trigger = self.task.trigger
        self._columns = [n for n, label in enumerate(self.task.labels) if not is_background(label)]
        # A label held at the lowest threshold is let go below this.
        self._least = trigger.release * trigger.release / trigger.threshold
        self._margin = Detector(self.task, self._version, owner).memory
        self._undecided = np.zeros((2 * self._margin, len(self.task.labels)), np.float32)
        self._hop = 0
        self._kept: list[Stretch] = []
        self.samples = 0

    @property
    def labels(self) -> list[str]:
        """Those that can be reported."""
        return [self.task.labels[column] for column in self._columns]

    def hear(self, sound: Iterable[Scores]) -> None:
        """Hear the next recording: arrays of samples (n,), of any length."""
        for piece in sound:
            for block in blocks(piece):
                self.samples += len(block)
                self._keep(self._pipeline.feed(block))

    def events(self, thresholds: Mapping[str, float]) -> Counter[str]:
        """How often each label is reported at these thresholds."""
        owner = self._owner.model_copy(update={"thresholds": dict(thresholds)})
        detector = Detector(self.task, self._version, owner)
        found: Counter[str] = Counter()
        newest = np.arange(self._margin, 2 * self._margin)
        undecided = self._at(self._undecided, self._hop - 2 * self._margin, newest)
        for scores, ends in [*self._kept, undecided]:
            found.update(event.label for event in detector.feed(scores, ends))
        return found

    def _keep(self, scores: Scores) -> None:
        """Keep the rows that have a score that matters within `_margin` hops of them."""
        margin = self._margin
        rows = np.concatenate((self._undecided, scores))
        first = self._hop - 2 * margin
        near = np.concatenate(([0], (rows[:, self._columns] >= self._least).any(axis=1).cumsum()))
        at = np.arange(margin, len(rows) - margin)
        at = at[near[at + margin + 1] > near[at - margin]]
        if len(at):
            self._kept.append(self._at(rows, first, at))
        self._undecided = rows[len(scores) :]
        self._hop += len(scores)

    def _at(self, rows: Scores, first: int, chosen: NDArray[np.int64]) -> Stretch:
        front_end = self.task.front_end
        return rows[chosen], (first + chosen) * front_end.hop + front_end.window


def calibrate(negatives: Negatives, wish: float) -> Calibration:
    """The lowest threshold at which there are at most `wish` false accepts an hour, all labels together.

    It is one for all labels: lowered for each label until just above its next false accept, they would all
    be chosen by the sound that is to judge them, and nothing could be promised. It does not get below the
    trigger's `release`: what scores less does not count as heard, whatever the recordings lack. Nor does it
    get below the trigger's `threshold` unless the wish is shown to be met: silence proves nothing.

    Raises:
        DeviceError: FA-4221, nothing was heard, FA-4224, no label can be reported, FA-4223, no threshold is
            high enough.
    """
    hours = negatives.samples / SAMPLE_RATE / 3600
    if not hours:
        raise DeviceError(
            "FA-4221", "There is no sound to calibrate with.", "Name files or folders of sound."
        )
    if not negatives.labels:
        raise DeviceError(
            "FA-4224",
            "There is nothing to calibrate: all labels of the model are of background.",
            "Calibrate a model that has a label to report.",
        )
    trigger, counted = negatives.task.trigger, math.floor(wish * hours)
    provable = next(k for k in count() if poisson_bound(k) > wish * hours) - 1
    for allowed, lowest in ((provable, trigger.release), (counted, trigger.threshold)):
        found = _lower(negatives, allowed, _grid(lowest))
        if found is not None:
            threshold, most = found
            thresholds = dict.fromkeys(negatives.labels, threshold)
            events = negatives.events(thresholds)
            return Calibration(hours, wish, thresholds, {label: events[label] for label in thresholds}, most)
    raise DeviceError(
        "FA-4223",
        f"Even at a threshold of {_grid(trigger.threshold)[0]} there are more than {counted} false accepts "
        f"in {hours:.2f} hours.",
        "Take recordings in which none of the labels is heard; if they are such, the model needs more "
        "training, best with a label `background`.",
    )


def _lower(negatives: Negatives, allowed: int, grid: Iterable[float]) -> tuple[float, int] | None:
    """The last threshold of `grid`, which falls, before there are more than `allowed` false accepts, and the
    count that bounds its rate; None if there is no such threshold."""
    found = None
    for threshold in grid:
        total = negatives.events(dict.fromkeys(negatives.labels, threshold)).total()
        if total > allowed:
            return None if found is None else (found[0], allowed)
        found = threshold, total
    return found


def _grid(lowest: float) -> list[float]:
    """Thresholds to try, from the highest down to `lowest`."""
    end = math.log(lowest / (1 - lowest))
    logits = np.arange(HIGHEST_LOGIT, end, -STEP)
    return [*(max(lowest, round(float(1 / (1 + np.exp(-logit))), 4)) for logit in logits), lowest]
