"""What goes wrong with one release stays with it, whatever it is and whenever."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest

from common.errors import DeviceError
from fl_client.listen import swap as hot_swap
from fl_client.listen.counters import Counters
from fl_client.listen.engine import Engine, Frames
from fl_client.listen.limits import SwapLimits
from fl_client.listen.pipeline import Pipeline
from fl_client.listen.recognizer import Recognizer
from fl_client.listen.ring import Ring
from fl_client.listen.swap import HotSwap
from tests.fl_client.listen.heard_swaps import BLOCK, BRIEF, NOT_COMPARED, Sound
from tests.fl_client.listen.made_faults import BANG, Fault, always, faulty, mistaken
from tests.fl_client.listen.made_releases import make_release, make_task

QUIET = np.zeros(16_000, np.float32)


def feed(swap: HotSwap, sound: Sound) -> None:
    """As a microphone does, without getting ahead of a shadow."""
    for start in range(0, len(sound), BLOCK):
        swap.feed(sound[start : start + BLOCK], is_open=False)
        if swap._shadow is not None:
            swap._shadow.end_turn()


def outcomes(swap: HotSwap) -> list[tuple[str, int, int]]:
    return [(told.outcome, told.from_version, told.to_version) for told in swap.messages]


def test_scores_that_are_no_numbers_end_the_listening_where_there_is_no_release_before() -> None:
    recognizer = Recognizer(faulty(make_release(1), "not numbers"))
    recognizer.feed(np.zeros(32_000, np.float32))
    with pytest.raises(RuntimeError, match="not numbers"):
        recognizer.feed(BANG)


def test_a_release_that_failed_has_not_proved_itself(speech: Sound) -> None:
    recognizer = Recognizer(faulty(make_release(1), "fails"), limits=SwapLimits(watch_seconds=1))
    assert recognizer.proved is None
    recognizer.feed(np.zeros(17_000, np.float32))
    assert recognizer.proved is recognizer.release
    with pytest.raises(RuntimeError):
        recognizer.feed(BANG)
    assert recognizer.proved is None


def test_logits_of_another_shape_are_a_fault_of_the_graph() -> None:
    engine = Engine(faulty(make_release(1), "misshapen"))
    with pytest.raises(RuntimeError, match="shape"):
        engine.run(np.full((4, 40), 9, np.float32))


@pytest.mark.parametrize("fault", ["misshapen", "fails"])
def test_a_shadow_whose_graph_goes_wrong_is_refused(fault: Fault, speech: Sound) -> None:
    swap = HotSwap(make_release(1).release, BRIEF, Counters())
    feed(swap, np.concatenate((speech[:40_000], QUIET)))
    swap.offer(faulty(make_release(2, seed=1), fault))
    feed(swap, np.concatenate((BANG, speech)))
    assert outcomes(swap) == [("refused", 1, 2)]
    assert [release.version for release, _ in swap.failures] == [2]


def test_whatever_a_shadow_raises_is_told_in_one_short_line(
    speech: Sound, monkeypatch: pytest.MonkeyPatch
) -> None:
    swap = HotSwap(make_release(1).release, BRIEF, Counters())
    feed(swap, speech[:40_000])
    swap.offer(make_release(2, seed=1).release)

    def raises(pipeline: Pipeline, recent: Ring) -> Frames:
        raise IndexError("N" * 5_000_000 + "\nand more")

    monkeypatch.setattr(Pipeline, "catch_up", raises)
    feed(swap, speech[:16_000])
    assert outcomes(swap) == [("refused", 1, 2)]
    assert len(swap.messages[0].reason) < 300
    assert "\n" not in swap.messages[0].reason


def test_whatever_the_release_at_work_raises_the_one_before_takes_over(
    speech: Sound, monkeypatch: pytest.MonkeyPatch
) -> None:
    swap = HotSwap(make_release(1).release, NOT_COMPARED, Counters())
    feed(swap, speech[:40_000])
    swap.offer(make_release(2, seed=1).release)
    feed(swap, speech[:16_000])
    score, failing = Pipeline.feed, swap.pipeline

    def raises(pipeline: Pipeline, *more: object) -> Frames:
        if pipeline is failing:
            raise IndexError("no such row")
        return score(pipeline, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(Pipeline, "feed", raises)
    feed(swap, speech[:16_000])
    assert outcomes(swap) == [("swapped", 1, 2), ("rolled-back", 2, 1)]
    assert [release.version for release, _ in swap.failures] == [2]


def test_whatever_goes_wrong_while_a_release_is_prepared_is_a_refusal(
    speech: Sound, monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizer = Recognizer(make_release(1).release)

    def raises(*_: object) -> Frames:
        raise IndexError("no such row")

    monkeypatch.setattr(Pipeline, "catch_up", raises)
    with pytest.raises(DeviceError, match="FA-4201"):
        recognizer.swap(make_release(2).release)
    assert recognizer.failures() == []  # whoever offered it knows; it may offer it in another form


def test_a_release_is_taken_back_without_waiting_for_a_shadow(
    speech: Sound, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The turn of a shadow may take as long as it likes."""
    swap = HotSwap(make_release(1).release, NOT_COMPARED, Counters())
    feed(swap, speech[:48_000])
    swap.offer(faulty(make_release(2, seed=2), "fails"))
    feed(swap, np.concatenate((speech[:16_000], QUIET)))
    assert outcomes(swap) == [("swapped", 1, 2)]
    swap._limits = SwapLimits()
    swap.offer(make_release(3).release)
    assert swap._shadow is not None
    shadow, go_on, replay = swap._shadow, threading.Event(), Pipeline.catch_up

    def slow(pipeline: Pipeline, recent: Ring) -> Frames:
        if pipeline is shadow.pipeline:
            assert go_on.wait(60)
        return replay(pipeline, recent)

    monkeypatch.setattr(Pipeline, "catch_up", slow)
    try:
        for start in range(0, 16_000, BLOCK):
            swap.feed(QUIET[start : start + BLOCK], is_open=False)
        swap.feed(BANG, is_open=False)
        assert outcomes(swap)[1:] == [("rolled-back", 2, 1)]
        assert not shadow.idle
        swap.offer(make_release(4).release)  # nor does it keep others out
    finally:
        go_on.set()


def test_after_a_rollback_a_shadow_is_compared_with_the_release_that_is_back(speech: Sound) -> None:
    """Labels and what was said of them are another's."""
    swap = HotSwap(always(make_release(1), 0), NOT_COMPARED, Counters())
    feed(swap, speech[:48_000])
    swap.offer(faulty(make_release(2, task=make_task(labels=("left", "right", "silence"))), "fails"))
    feed(swap, np.concatenate((speech[:16_000], QUIET)))
    swap._limits = BRIEF
    swap.offer(always(make_release(3), 0))
    feed(swap, QUIET[:3_200])
    feed(swap, np.concatenate((BANG, speech)))
    assert outcomes(swap) == [("swapped", 1, 2), ("rolled-back", 2, 1), ("swapped", 1, 3)]
    assert swap.messages[-1].agreement == 1.0


def test_a_disagreement_with_a_release_that_was_taken_back_does_not_count(speech: Sound) -> None:
    swap = HotSwap(always(make_release(1), 0), BRIEF, Counters())
    feed(swap, speech[:16_000])
    swap.offer(always(make_release(3), 0))
    shadow = swap._shadow
    assert shadow is not None
    shadow.beside = Pipeline(mistaken(make_release(2)))  # at work no more
    shadow.disagrees, shadow.fault = True, "it agrees with nothing"
    feed(swap, speech)
    assert outcomes(swap) == [("swapped", 1, 3)]


def test_a_release_offered_while_another_takes_over_is_compared_with_that(
    speech: Sound, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = make_task(labels=("yes", "no"))
    swap = HotSwap(make_release(1, task=two).release, BRIEF, Counters())
    feed(swap, speech[:48_000])
    swap.offer(make_release(2).release)
    assert swap._shadow is not None
    second, third, catch_up = swap._shadow.pipeline, make_release(3).release, hot_swap.catch_up

    def between(pipeline: Pipeline, recent: Ring) -> None:
        catch_up(pipeline, recent)
        if pipeline is second:
            monkeypatch.undo()
            swap.offer(third)

    monkeypatch.setattr(hot_swap, "catch_up", between)
    feed(swap, np.tile(speech, 2))
    assert outcomes(swap)[0] == ("swapped", 1, 2)
    assert outcomes(swap)[1] in {("swapped", 2, 3), ("refused", 2, 3)}


def test_a_release_whose_preparation_a_reset_overtakes_hears_only_what_comes_after_it(
    speech: Sound, monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizer, fresh = (Recognizer(make_release(version).release, limits=NOT_COMPARED) for version in (1, 2))
    recognizer.feed(speech[:48_000])
    replay, other = Pipeline.catch_up, np.flip(speech)

    def slow(pipeline: Pipeline, recent: Ring) -> Frames:
        monkeypatch.undo()
        scores = replay(pipeline, recent)
        recognizer.reset()  # what another thread does meanwhile
        recognizer.feed(other[:49_000])  # it gets to where that release believes to be
        return scores

    monkeypatch.setattr(Pipeline, "catch_up", slow)
    recognizer.swap(make_release(2).release)
    recognizer.feed(other[49_000:50_000])
    fresh.feed(other[:50_000])
    assert recognizer.version == 2
    assert list(recognizer.scores.values()) == pytest.approx(list(fresh.scores.values()), abs=1e-4)
    assert (recognizer.counters.dropped, recognizer.counters.doubled) == (0, 0)


def test_a_rollback_hears_no_more_of_the_past_than_decides_what_comes(
    speech: Sound, monkeypatch: pytest.MonkeyPatch
) -> None:
    swap = HotSwap(make_release(1).release, replace(NOT_COMPARED, busy=100), Counters())
    feed(swap, speech[:16_000])
    swap.offer(faulty(make_release(2, seed=2), "fails"))
    feed(swap, np.concatenate((speech, speech[:30_000], QUIET)))
    heard, hear, before = 0, Pipeline.feed, swap._previous
    assert before is not None

    def count(pipeline: Pipeline, samples: Sound, *more: object) -> Frames:
        nonlocal heard
        heard += len(samples) * (pipeline is before)
        return hear(pipeline, samples, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(Pipeline, "feed", count)
    swap.feed(BANG, is_open=False)
    assert outcomes(swap)[-1] == ("rolled-back", 2, 1)
    assert heard == before.memory + len(BANG)
    assert swap._recent.capacity > before.memory
