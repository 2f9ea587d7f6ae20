"""Counts of answers, against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, precision_score, recall_score

from common.evaluation.counts import Answers

LABELS = ("yes", "no", "stop")

pairs = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=60)


def answers(found: list[tuple[int, int]]) -> Answers:
    truth, given_ = np.array(found).T
    return Answers(LABELS, truth, given_, ["ab"[number % 2] for number in range(len(found))])


@given(pairs)
def test_counts_are_scikit_learns(found: list[tuple[int, int]]) -> None:
    made = answers(found)
    truth, given_ = np.array(found).T
    assert np.array_equal(made.confusion, confusion_matrix(truth, given_, labels=range(3)))
    recalls = recall_score(truth, given_, labels=range(3), average=None, zero_division=np.nan)
    precisions = precision_score(truth, given_, labels=range(3), average=None, zero_division=np.nan)
    for place in range(3):
        for share, reference in ((made.recall(place), recalls), (made.precision(place), precisions)):
            assert share.value == pytest.approx(reference[place]) or np.isnan(reference[place])
            assert (share.value is None) == bool(np.isnan(reference[place]))


@given(pairs)
def test_groups_make_up_the_whole_and_the_worst_comes_first(found: list[tuple[int, int]]) -> None:
    made = answers(found)
    shares = list(made.by_group.values())
    assert sum(share.hits for share in shares) == made.accuracy.hits
    assert sum(share.trials for share in shares) == len(found)
    values = [share.value for share in shares]
    assert values == sorted(values, key=lambda value: value or 0.0)
