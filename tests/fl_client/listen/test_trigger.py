"""The trigger on synthetic posteriors."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from common.task import Task, Trigger, is_background
from fl_client.listen.events import Event, line_of
from fl_client.listen.settings import ListenSettings
from fl_client.listen.trigger import Detector

LABELS = ("yes", "no", "background")
TASK = Task(labels=LABELS, trigger=Trigger(threshold=0.6, release=0.4, refractory_seconds=0.05))
HOP, WINDOW = 160, 400


def posteriors(*yes: float, no: float = 0.0) -> NDArray[np.float32]:
    rows = np.array([[value, no, 1 - value - no] for value in yes])
    return rows.astype(np.float32)


def ends(count: int, first: int = 97) -> NDArray[np.int64]:
    return np.arange(first, first + count) * HOP + WINDOW


def heard(scores: NDArray[np.float32], task: Task = TASK, owner: ListenSettings | None = None) -> list[Event]:
    return Detector(task, 1, owner).feed(scores, ends(len(scores)))


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


def test_a_smoothed_score_is_the_mean_of_the_last_of_them() -> None:
    owner = ListenSettings(smoothing_seconds=0.04)  # four hops
    (event,) = heard(posteriors(0.0, 0.0, 1.0, 0.4, 0.4, 0.7, 0.7, 0.7), owner=owner)
    # 0.45, 0.625 (1, .4, .4, .7) is the first mean of four above 0.6.
    assert hops_of([event]) == [5]
    assert event.score == pytest.approx(0.625)


def test_a_click_does_not_pass_the_smoothing_and_a_word_passes_later() -> None:
    owner = ListenSettings(smoothing_seconds=0.1)
    assert heard(posteriors(*[0.0] * 20, 1.0, *[0.0] * 20), owner=owner) == []
    assert hops_of(heard(posteriors(*[0.0] * 20, *[0.9] * 20), owner=owner)) == [26]  # 7 of 10 hops at .9


def test_the_release_says_how_long_to_smooth_and_the_owner_goes_before_it() -> None:
    smoothed = TASK.model_copy(update={"trigger": TASK.trigger.model_copy(update={"smoothing_seconds": 0.1})})
    scores = posteriors(*[0.9] * 20)
    assert hops_of(heard(scores, smoothed)) == [6]
    assert hops_of(heard(scores, smoothed, ListenSettings(smoothing_seconds=0))) == [0]


def test_each_label_has_its_own_threshold_and_hysteresis() -> None:
    owner = ListenSettings(thresholds={"yes": 0.9})
    assert heard(posteriors(0.89), owner=owner) == []
    assert len(heard(posteriors(0.9), owner=owner)) == 1
    assert len(heard(posteriors(0.0, no=0.6), owner=owner)) == 1  # the task's
    # Released below 0.9 * 0.4 / 0.6 = 0.6.
    for low, times in ((0.61, 1), (0.59, 2)):
        assert len(heard(posteriors(0.9, *[low] * 10, 0.9), owner=owner)) == times


def test_a_threshold_for_background_reports_no_background() -> None:
    owner = ListenSettings(thresholds={"background": 0.1, "nobody": 0.1})
    assert heard(posteriors(*[0.0] * 50), owner=owner) == []


@pytest.mark.parametrize("seconds", [(0.0, 0.1), (0.1, 0.0), (0.05, 0.2), (0.2, 0.05)])
def test_a_word_is_not_reported_twice_if_the_next_release_smooths_otherwise(
    seconds: tuple[float, float],
) -> None:
    first, second = (
        TASK.model_copy(update={"trigger": TASK.trigger.model_copy(update={"smoothing_seconds": one})})
        for one in seconds
    )
    detector = Detector(first, 1)
    assert len(detector.feed(posteriors(*[0.9] * 30), ends(30))) == 1
    assert detector.succeeded_by(second, 2).feed(posteriors(*[0.9] * 50), ends(50, 127)) == []


ANY_SCORES = arrays(np.float32, (60, 3), elements=st.floats(0, 1, width=32))
ANY_OWNER = st.builds(
    ListenSettings,
    smoothing_seconds=st.sampled_from([None, 0.0, 0.02, 0.05, 0.3]),
    thresholds=st.dictionaries(st.sampled_from(LABELS), st.floats(0.05, 0.95)),
)


@given(scores=ANY_SCORES, owner=ANY_OWNER, cuts=st.lists(st.integers(0, 60), max_size=6))
def test_events_do_not_depend_on_blocks_and_keep_the_rules(
    scores: NDArray[np.float32], owner: ListenSettings, cuts: list[int]
) -> None:
    whole = heard(scores, owner=owner)
    detector = Detector(TASK, 1, owner)
    in_blocks: list[Event] = []
    at = 0
    for block in np.split(scores, sorted(cuts)):
        in_blocks += detector.feed(block, ends(len(block), 97 + at))
        at += len(block)
    assert in_blocks == whole
    hops = hops_of(whole)
    assert all(later - earlier >= 5 for earlier, later in itertools.pairwise(hops))
    smoothed = detector.memory
    for event, hop in zip(whole, hops, strict=True):
        column = LABELS.index(event.label)
        means = scores[max(0, hop + 1 - smoothed) : hop + 1].sum(axis=0, dtype=np.float64) / smoothed
        assert event.label != "background"
        assert means[column] == pytest.approx(means.max(), abs=1e-6)
        assert means[column] >= owner.thresholds.get(event.label, 0.6) - 1e-6


@given(before=ANY_SCORES, after=ANY_SCORES, owner=ANY_OWNER)
def test_a_reset_detector_is_a_new_one(
    before: NDArray[np.float32], after: NDArray[np.float32], owner: ListenSettings
) -> None:
    used = Detector(TASK, 1, owner)
    used.feed(before, ends(60, 1000))
    used.reset()
    assert used.feed(after, ends(60)) == heard(after, owner=owner)


@given(scores=ANY_SCORES, owner=ANY_OWNER, at=st.integers(0, 60))
def test_a_successor_with_the_same_task_goes_on_where_the_first_stopped(
    scores: NDArray[np.float32], owner: ListenSettings, at: int
) -> None:
    first = Detector(TASK, 1, owner)
    events = first.feed(scores[:at], ends(at))
    events += first.succeeded_by(TASK, 1).feed(scores[at:], ends(60 - at, 97 + at))
    assert events == heard(scores, owner=owner)


def test_a_line_says_what_it_is_and_when_and_has_an_id_of_its_own() -> None:
    event = Event("نعم", 0.75, 1.0, 2.0, 3)
    line, again = line_of(event), line_of(event)
    assert line.pop("id") != again["id"]
    assert abs(datetime.fromisoformat(str(line.pop("time"))) - datetime.now(UTC)) < timedelta(minutes=1)
    assert line == {
        "type": "event",
        "label": "نعم",
        "score": 0.75,
        "start": 1.0,
        "end": 2.0,
        "version": 3,
        "task": "main",
    }
