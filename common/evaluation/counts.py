"""What was said of clips, as counts and as shares of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from common.evaluation.intervals import Interval, wilson

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Share:
    """`hits` of `trials`."""

    hits: int
    trials: int

    @property
    def value(self) -> float | None:
        """None without trials, for then it is not known."""
        return self.hits / self.trials if self.trials else None

    @property
    def interval(self) -> Interval:
        """At 95 %."""
        return wilson(self.hits, self.trials)


@dataclass(frozen=True, eq=False)
class Answers:
    """The labels that clips have, and those that a model gave them.

    Args:
        labels: of the task.
        truth, given: position in `labels`, (clips,).
        groups: who speaks in each clip, or which fold it is of; "-" where that is not known.
    """

    labels: tuple[str, ...]
    truth: Counts
    given: Counts
    groups: Sequence[str]

    @property
    def accuracy(self) -> Share:
        """Clips named rightly."""
        return _share(self.truth == self.given)

    @cached_property
    def confusion(self) -> Counts:
        """Clips by true label (row) and label given (column), (labels, labels)."""
        table = np.zeros((len(self.labels),) * 2, np.int64)
        np.add.at(table, (self.truth, self.given), 1)
        return table

    def recall(self, label: int) -> Share:
        """Of the clips that have `label`, those that were given it."""
        return _share(self.given[self.truth == label] == label)

    def precision(self, label: int) -> Share:
        """Of the clips that were given `label`, those that have it."""
        return _share(self.truth[self.given == label] == label)

    @cached_property
    def by_group(self) -> dict[str, Share]:
        """Clips named rightly of each group, the worst first."""
        names, right = np.array(self.groups), self.truth == self.given
        shares = {str(name): _share(right[names == name]) for name in np.unique(names)}
        return dict(sorted(shares.items(), key=lambda item: (item[1].value or 0.0, item[0])))


def _share(right: NDArray[np.bool_]) -> Share:
    return Share(int(right.sum()), len(right))
