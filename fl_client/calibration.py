"""Finds the thresholds at which a release is wrong as seldom as the owner wishes, on recordings in which none
of its labels is heard.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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
    """

    hours: float
    wish: float
    thresholds: Mapping[str, float]
    false_accepts: Mapping[str, int]

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
        """Upper end of the 95 % interval of false accepts per hour; see `poisson_bound`."""
        return poisson_bound(self.total) / self.hours

    @property
    def hours_needed(self) -> float:
        """Hours without any false accept that would show the wish to be met, at 95 %."""
        return hours_needed(self.wish)

    @property
    def is_enough(self) -> bool:
        """Whether so much was heard that the wish can be shown to be met."""
        return self.hours >= self.hours_needed


def hours_needed(wish: float) -> float:
    """As of `Calibration`, for `wish` false accepts an hour."""
    return poisson_bound(0) / wish


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
    """The lowest thresholds at which there are at most `wish` false accepts an hour, all labels together.

    One threshold for all labels is found first. Then each label's is lowered as long as no false accept
    comes of it, so that a label that nothing resembles is heard easily. None gets below the trigger's
    `release`: what scores less does not count as heard, whatever the recordings lack. Nor does any get below
    its `threshold` unless there is enough sound to show that the wish is met: silence proves nothing.

    Raises:
        DeviceError: FA-4221, nothing was heard, FA-4223, no threshold is high enough.
    """
    hours = negatives.samples / SAMPLE_RATE / 3600
    if not hours:
        raise DeviceError(
            "FA-4221", "There is no sound to calibrate with.", "Name files or folders of sound."
        )
    allowed = math.floor(wish * hours)
    trigger = negatives.task.trigger
    grid = _grid(trigger.release if hours >= hours_needed(wish) else trigger.threshold)
    common = None
    for threshold in grid:
        if negatives.events(dict.fromkeys(negatives.labels, threshold)).total() > allowed:
            break
        common = threshold
    if common is None:
        raise DeviceError(
            "FA-4223",
            f"Even at a threshold of {grid[0]} there are more than {allowed} false accepts "
            f"in {hours:.2f} hours.",
            "Take recordings in which none of the labels is heard; if they are such, the model needs more "
            "training, best with a label `background`.",
        )
    thresholds = dict.fromkeys(negatives.labels, common)
    found = negatives.events(thresholds)
    for label in negatives.labels:
        for threshold in grid[grid.index(common) + 1 :]:
            lowered = thresholds | {label: threshold}
            heard = negatives.events(lowered)
            if heard.total() > found.total():
                break
            thresholds, found = lowered, heard
    return Calibration(hours, wish, thresholds, {label: found[label] for label in negatives.labels})


def _grid(lowest: float) -> list[float]:
    """Thresholds to try, from the highest down to `lowest`."""
    end = math.log(lowest / (1 - lowest))
    logits = np.arange(HIGHEST_LOGIT, end, -STEP)
    return [*(max(lowest, round(float(1 / (1 + np.exp(-logit))), 4)) for logit in logits), lowest]
