"""The trigger on synthetic posteriors."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from common.task import Task, Trigger
from fl_client.listen.trigger import Detector, Event, is_background

LABELS = ("yes", "no", "background")
TASK = Task(labels=LABELS, trigger=Trigger(threshold=0.6, release=0.4, refractory_seconds=0.05))
HOP, WINDOW = 160, 400


def posteriors(*yes: float, no: float = 0.0) -> NDArray[np.float32]:
    rows = np.array([[value, no, 1 - value - no] for value in yes])
    return rows.astype(np.float32)


def ends(count: int, first: int = 97) -> NDArray[np.int64]:
    return np.arange(first, first + count) * HOP + WINDOW


def heard(scores: NDArray[np.float32], task: Task = TASK) -> list[Event]:
    return Detector(task, 1).feed(scores, ends(len(scores)))


def hops_of(events: list[Event]) -> list[int]:
    return [round((event.end * 16000 - WINDOW) / HOP) - 97 for event in events]


def test_the_event_comes_at_the_hop_that_crosses_and_says_which_sound_it_is_about() -> None:
    (event,) = heard(posteriors(0.1, 0.59, 0.7, 0.9))
    assert event.label == "yes"
    assert event.score == pytest.approx(0.7)
    assert event.end == pytest.approx(((97 + 2) * HOP + WINDOW) / 16000)
    assert event.end - event.start == pytest.approx((97 * HOP + WINDOW) / 16000)
    assert event.version == 1


def test_a_label_that_stays_loud_is_reported_once() -> None:
    assert len(heard(posteriors(*[0.9] * 1000))) == 1


def test_it_must_fall_below_release_before_it_is_reported_again() -> None:
    quiet = [0.0] * 10  # longer than the refractory time
    between = [0.5] * 10  # below the threshold, above the release
    assert len(heard(posteriors(0.9, *between, 0.9))) == 1
    assert hops_of(heard(posteriors(0.9, *quiet, 0.9))) == [0, 11]


def test_nothing_is_reported_in_the_refractory_time() -> None:
    # 0.05 s are 800 samples: five hops.
    assert hops_of(heard(posteriors(0.9, 0.0, 0.0, 0.0, 0.9, 0.0, 0.0, 0.0))) == [0]
    assert hops_of(heard(posteriors(0.9, 0.0, 0.0, 0.0, 0.0, 0.9))) == [0, 5]


def test_another_label_that_outlasts_the_refractory_time_is_reported_at_its_end() -> None:
    scores = np.concatenate((posteriors(0.9), posteriors(*[0.0] * 9, no=0.9)))
    events = heard(scores)
    assert [event.label for event in events] == ["yes", "no"]
    assert hops_of(events) == [0, 5]


def test_a_label_that_does_not_lead_is_not_reported() -> None:
    low = TASK.model_copy(update={"trigger": Trigger(threshold=0.3, release=0.2, refractory_seconds=0)})
    assert heard(posteriors(0.35, no=0.1), low) == []
    assert [event.label for event in heard(posteriors(0.35, no=0.4), low)] == ["no"]


@pytest.mark.parametrize(
    "name", ["background", "_background_", "Silence", "_silence_", "_unknown_", "BACKGROUND"]
)
def test_background_never_triggers(name: str) -> None:
    assert is_background(name)
    task = TASK.model_copy(update={"labels": ("yes", "no", name)})
    assert heard(posteriors(*[0.0] * 50), task) == []


def test_a_word_that_only_sounds_like_background_triggers() -> None:
    assert not is_background("silencer")


def test_what_is_held_stays_held_in_the_next_release_even_if_labels_move() -> None:
    first = Detector(TASK, 1)
    assert len(first.feed(posteriors(0.9), ends(1))) == 1
    moved = TASK.model_copy(update={"labels": ("no", "stop", "yes")})
    second = first.succeeded_by(moved, 2)
    still_yes = np.array([[0.0, 0.1, 0.9]] * 20, np.float32)
    assert second.feed(still_yes, ends(20, 98)) == []
    then_no = np.array([[0.9, 0.1, 0.0]], np.float32)
    (event,) = second.feed(then_no, ends(1, 118))
    assert (event.label, event.version) == ("no", 2)


def test_scores_that_are_no_numbers_report_nothing() -> None:
    assert heard(np.full((5, 3), np.nan, np.float32)) == []


@given(
    scores=arrays(np.float32, (60, 3), elements=st.floats(0, 1, width=32)),
    cuts=st.lists(st.integers(0, 60), max_size=6),
)
def test_events_do_not_depend_on_blocks_and_keep_the_rules(
    scores: NDArray[np.float32], cuts: list[int]
) -> None:
    whole = heard(scores)
    detector = Detector(TASK, 1)
    in_blocks: list[Event] = []
    at = 0
    for block in np.split(scores, sorted(cuts)):
        in_blocks += detector.feed(block, ends(len(block), 97 + at))
        at += len(block)
    assert in_blocks == whole
    hops = hops_of(whole)
    assert all(later - earlier >= 5 for earlier, later in itertools.pairwise(hops))
    for event, hop in zip(whole, hops, strict=True):
        column = LABELS.index(event.label)
        assert event.label != "background"
        assert scores[hop, column] == scores[hop].max() >= np.float32(0.6)


def test_an_event_is_one_line_of_json() -> None:
    event = Event("نعم", 0.75, 1.0, 2.0, 3)
    assert "\n" not in event.to_json()
    assert json.loads(event.to_json()) == {
        "label": "نعم",
        "score": 0.75,
        "start": 1.0,
        "end": 2.0,
        "version": 3,
    }
