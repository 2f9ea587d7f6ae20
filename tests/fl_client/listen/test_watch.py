"""What a release may cost and report before it is refused or taken back."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.audio.front_end import LogMel
from common.task import Trigger
from fl_client.listen.counters import Counters
from fl_client.listen.limits import SwapLimits
from fl_client.listen.recognizer import Recognizer
from fl_client.listen.settings import ListenSettings
from fl_client.listen.swap import HotSwap
from fl_client.listen.watch import Watch, poisson_tail
from tests.fl_client.listen.heard_swaps import BRIEF, NOT_COMPARED, Sound, hear, is_whole
from tests.fl_client.listen.made_faults import always, faulty, with_weights
from tests.fl_client.listen.made_releases import make_release, make_task


def test_a_release_that_is_too_slow_is_refused_by_its_shadow(speech: Sound) -> None:
    recognizer = Recognizer(make_release(1).release, limits=BRIEF)
    hear(recognizer, speech[:24_000])
    recognizer.swap(faulty(make_release(2, seed=1), "slow"))
    (told,) = hear(recognizer, speech[:16_000])
    assert told.outcome == "refused"
    assert "of the processor" in told.reason
    assert is_whole(recognizer.counters, 40_000)


def test_a_release_that_turns_out_to_be_slow_gives_back(speech: Sound) -> None:
    recognizer = Recognizer(make_release(1).release, limits=NOT_COMPARED)
    hear(recognizer, speech[:32_000])
    recognizer.swap(faulty(make_release(2, seed=1), "slow"))
    swapped, told = hear(recognizer, speech[:32_000])
    assert (swapped.outcome, told.outcome) == ("swapped", "rolled-back")
    assert "of the processor" in told.reason
    assert told.at - swapped.at <= 1.1
    assert is_whole(recognizer.counters, 64_000)


@pytest.mark.parametrize(("seconds", "outcomes"), [(0.9, ["swapped", "rolled-back"]), (5, ["swapped"])])
@pytest.mark.parametrize("refractory", [0.0, 0.7])
def test_a_release_that_reports_far_too_much_gives_back(
    seconds: float, outcomes: list[str], refractory: float, speech: Sound
) -> None:
    task = make_task(trigger=Trigger(refractory_seconds=refractory))
    swap = HotSwap(make_release(1, task=task).release, SwapLimits(), Counters())
    swap.feed(speech, is_open=False)
    swap.offer(make_release(2, task=task).release)
    fed, reports = 0, -1
    while fed < 70 * 16_000:
        swap.feed(speech[:8_000], is_open=False)
        if swap._shadow is not None:
            swap._shadow.end_turn()
        fed += 8_000
        if swap.pipeline.release.version == 2:
            due = int(fed / 16_000 / seconds)
            swap.reported(due - reports if reports >= 0 else 0, {})
            reports = due
    assert [told.outcome for told in swap.messages] == outcomes


def test_a_release_that_does_without_a_refractory_time_may_not_report_more_for_it(speech: Sound) -> None:
    tasks = [make_task(trigger=Trigger(refractory_seconds=seconds)) for seconds in (2.0, 0.5)]
    watch = Watch(tasks[1], tasks[0], SwapLimits(), 0, 0.0, 0.0, {}, 60.0)
    assert any(watch.reported(1, 2 * 16_000 * event) is not None for event in range(1, 30))


def test_a_release_that_holds_a_label_on_and_on_gives_back(speech: Sound) -> None:
    recognizer = Recognizer(make_release(1).release, limits=NOT_COMPARED)
    hear(recognizer, speech)
    recognizer.swap(always(make_release(2), 0))
    swapped, back = hear(recognizer, np.tile(speech, 5))
    assert (swapped.outcome, back.outcome, recognizer.version) == ("swapped", "rolled-back", 1)
    assert "on and on" in back.reason
    assert 38 <= back.at < 40  # after 30 s, and so after one event
    assert is_whole(recognizer.counters, 6 * len(speech))


def test_a_label_that_was_held_before_may_be_held_on(speech: Sound) -> None:
    recognizer = Recognizer(always(make_release(1), 0), limits=NOT_COMPARED)
    hear(recognizer, speech)
    recognizer.swap(always(make_release(2), 0))
    (told,) = hear(recognizer, np.tile(speech, 8))
    assert (told.outcome, recognizer.on_trial) == ("swapped", False)


def test_what_the_owner_has_hear_easily_is_held_by_the_release_before_as_well(speech: Sound) -> None:
    """At a threshold of .05 a label is held that no trigger of the release itself would open for."""
    unsure = {
        "classify.weight": np.zeros_like(make_release(1).release.weights["classify.weight"]),
        "classify.bias": np.log(np.array([0.4, 0.2, 0.2, 0.2], np.float32)),
    }
    first, second = (with_weights(make_release(version), unsure) for version in (1, 2))
    recognizer = Recognizer(first, ListenSettings(thresholds={"yes": 0.05}), NOT_COMPARED)
    recognizer.swap(second)  # before the first has held anything
    assert [told.outcome for told in hear(recognizer, np.tile(speech, 8))] == ["swapped"]
    assert recognizer.held_seconds["yes"] > 60
    assert not recognizer.on_trial


@pytest.mark.parametrize(("before", "outcomes"), [(0, ["swapped"]), (1, ["swapped", "rolled-back"])])
def test_a_label_that_is_held_for_the_first_time_stays_if_the_one_before_hears_it_too(
    before: int, outcomes: list[str], speech: Sound
) -> None:
    swap = HotSwap(always(make_release(1), before), NOT_COMPARED, Counters())
    swap.feed(speech, is_open=False)
    swap.offer(always(make_release(2), 0))
    for second in range(62):
        swap.feed(speech[:16_000], is_open=False)
        swap.reported(0, {"yes": float(second)})
    assert [told.outcome for told in swap.messages] == outcomes
    assert not swap.on_trial


def test_as_many_events_as_before_are_no_jump(speech: Sound) -> None:
    recognizer = Recognizer(make_release(1).release, limits=replace(NOT_COMPARED, busy=0.001))
    hear(recognizer, np.tile(speech, 3))
    recognizer.swap(make_release(2, seed=1).release)
    assert [swap.outcome for swap in hear(recognizer, np.tile(speech, 8))] == ["swapped"]
    assert not recognizer.on_trial


@given(first=st.floats(0, 0.5), slower=st.lists(st.floats(1, 1e3), max_size=9))
def test_releases_cannot_outbid_each_other_in_processor_time(first: float, slower: list[float]) -> None:
    """Each as slow as the one before allows: half of the time is the end of it, by the limits as they are."""
    limits, cost = SwapLimits(), first
    for factor in slower:
        cost = min(factor * cost, limits.budget(cost))
    assert cost <= 0.5
    assert limits.budget(first) <= 0.5
    assert limits.budget(0.01) == 0.25


def test_processor_time_is_compared_by_the_second_and_not_by_the_hop(speech: Sound) -> None:
    """A hop of a release may be a small part of that of another."""
    long = make_task(front_end=LogMel(hop=1600, window=1600), clip_seconds=1.0)
    swap = HotSwap(make_release(1, task=long).release, SwapLimits(), Counters())
    swap.feed(speech[:16_000], is_open=False)
    swap._seconds = 0.2  # as if the second just heard had taken so long
    swap.offer(make_release(2).release)
    shadow = swap._shadow
    assert shadow is not None
    shadow._seconds, shadow._hops = 0.0038 * 50, 50  # in half a second; 38 ms a hop were as much at work
    shadow._began = shadow.pipeline.position - 16_000
    assert swap._cost == pytest.approx(0.2, rel=0.05)
    shadow._judge(swap._cost)
    assert (shadow.fault, shadow.ready_at is not None) == (None, True)
    shadow.ready_at, shadow._seconds = None, 0.006 * 50
    shadow._judge(swap._cost)
    assert shadow.fault == "it takes 60% of the processor, more than 40%"


@given(count=st.integers(0, 60), mean=st.floats(0.01, 50))
def test_the_bound_of_the_poisson_tail_is_one(count: int, mean: float) -> None:
    below = math.fsum(math.exp(n * math.log(mean) - mean - math.lgamma(n + 1)) for n in range(count))
    assert poisson_tail(count, mean) >= 1 - below - 1e-9
    assert poisson_tail(count + 1, mean) <= poisson_tail(count, mean)
