"""One release takes over from another in the middle of a stream."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from numpy.typing import NDArray

from common.audio.front_end import LogMel, Mfcc
from common.errors import DeviceError
from common.protocol.release import GRAPH
from fl_client.listen.engine import Frames
from fl_client.listen.limits import SwapLimits
from fl_client.listen.pipeline import Pipeline
from fl_client.listen.recognizer import Recognizer
from fl_client.listen.ring import Ring
from tests.fl_client.listen.made_releases import Made, make_release, make_task, resealed

Sound = NDArray[np.float32]
HOP = 160
SWAP_AT = 4 * 16000 + 77  # between two samples that begin no hop

AT_ONCE = SwapLimits(shadow_seconds=0, wait_seconds=0)
"""Whatever can be run takes over at the next hop."""

OTHERS = {
    "other weights": {},
    "other architecture": {"architecture": "ds-cnn"},
    "other labels": {"labels": ("left", "right", "silence")},
    "other front end": {"front_end": Mfcc()},
    "other hop": {"front_end": LogMel(hop=200, window=480)},
    "longer clip": {"clip_seconds": 1.6},
}


def other(name: str, version: int = 2) -> Made:
    return make_release(version, task=make_task(**OTHERS[name]))


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("heard_before", [SWAP_AT, 5000])
def test_after_a_swap_the_scores_are_those_of_a_listener_that_ran_the_release_from_the_start(
    name: str, heard_before: int, speech: Sound
) -> None:
    swapped = Recognizer(make_release(1).release, limits=AT_ONCE)
    always = Recognizer(other(name).release)
    swapped.feed(speech[:heard_before])
    always.feed(speech[:heard_before])
    swapped.swap(other(name).release)
    for start in range(heard_before, heard_before + 2 * 16000, 1000):
        block = speech[start : start + 1000]
        swapped.feed(block)
        always.feed(block)
        assert swapped.scores.keys() == always.scores.keys()
        np.testing.assert_allclose(list(swapped.scores.values()), list(always.scores.values()), atol=1e-4)
    assert any(swapped.scores.values())
    assert swapped.version == 2
    assert (swapped.counters.swaps, swapped.counters.dropped, swapped.counters.doubled) == (1, 0, 0)


@pytest.mark.parametrize("seconds_after", [0.3, 20])
def test_what_comes_in_while_a_release_is_prepared_is_not_lost(
    seconds_after: float, speech: Sound, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when it is more than the history holds."""
    swapped = Recognizer(make_release(1).release, limits=AT_ONCE)
    always = Recognizer(make_release(2).release)
    sound = np.tile(speech, 5)
    late = SWAP_AT + int(seconds_after * 16000)
    swapped.feed(sound[:SWAP_AT])
    replay = Pipeline.catch_up

    def slow(pipeline: Pipeline, recent: Ring) -> Frames:
        monkeypatch.undo()
        scores = replay(pipeline, recent)
        swapped.feed(sound[SWAP_AT:late])  # what another thread does meanwhile
        return scores

    monkeypatch.setattr(Pipeline, "catch_up", slow)
    swapped.swap(make_release(2).release)
    assert swapped.version == 1
    swapped.feed(sound[late : late + 320])
    always.feed(sound[: late + 320])
    assert swapped.version == 2
    np.testing.assert_allclose(list(swapped.scores.values()), list(always.scores.values()), atol=1e-4)
    assert (swapped.counters.dropped, swapped.counters.doubled) == (0, 0)
    assert swapped.counters.hops == make_task().front_end.frames(late + 320)


def test_over_a_hundred_swaps_by_another_thread_lose_and_double_nothing(speech: Sound) -> None:
    recognizer = Recognizer(make_release(0).release, limits=AT_ONCE)
    makers = [make_release(seed, seed).release for seed in range(3)]
    done = threading.Event()
    versions: set[int] = set()

    def swap_on_and_on() -> None:
        version = 0
        while not done.is_set():
            version += 1
            release = makers[version % 3]
            manifest = release.manifest.model_copy(update={"version": version})
            recognizer.swap(type(release)(manifest, release.weights, release.graph))

    loader = threading.Thread(target=swap_on_and_on)
    loader.start()
    fed = 0
    try:
        while recognizer.counters.swaps < 120:
            at = fed % (len(speech) - 200)
            size = 1 + fed % 199
            for event in recognizer.feed(speech[at : at + size]):
                versions.add(event.version)
            fed += size
    finally:
        done.set()
        loader.join()
    counters = recognizer.counters
    assert counters.hops == make_task().front_end.frames(fed)
    assert (counters.dropped, counters.doubled, counters.refused) == (0, 0, 0)
    assert 0 < counters.last_gap_seconds <= counters.max_gap_seconds
    assert recognizer.version >= 120


def test_swaps_between_front_ends_keep_the_hops_contiguous(speech: Sound) -> None:
    recognizer = Recognizer(other("other hop", 0).release, limits=AT_ONCE)
    names = ["other front end", "other weights", "other hop", "longer clip", "other architecture"]
    for version, start in enumerate(range(0, len(speech), 6007), 1):
        recognizer.feed(speech[start : start + 6007])
        recognizer.swap(other(names[version % len(names)], version).release)
    counters = recognizer.counters
    assert counters.swaps > 15
    assert (counters.dropped, counters.doubled) == (0, 0)


def test_events_name_the_version_that_decided_and_no_word_is_told_twice(speech: Sound) -> None:
    first, second = make_release(1, seed=1).release, make_release(2, seed=1).release
    plain = Recognizer(first)
    expected = plain.feed(speech)
    swapped = Recognizer(first, limits=AT_ONCE)
    cut = int((expected[1].end + 0.02) * 16000)  # the second word is still being heard
    events = swapped.feed(speech[:cut])
    swapped.swap(second)
    events += swapped.feed(speech[cut:])
    assert [(e.label, e.end) for e in events] == [(e.label, e.end) for e in expected]
    assert [event.version for event in events] == [1, 1] + [2] * (len(expected) - 2)


def test_a_graph_that_is_none_is_refused_and_the_old_release_goes_on(speech: Sound) -> None:
    recognizer, undisturbed = (Recognizer(make_release(1).release) for _ in range(2))
    broken = resealed(make_release(2), graph=b"\x08\x07 this is no graph")
    recognizer.feed(speech[:SWAP_AT])
    with pytest.raises(DeviceError, match="FA-4201"):
        recognizer.swap(broken)
    recognizer.feed(speech[SWAP_AT:])
    undisturbed.feed(speech)
    assert recognizer.version == 1
    assert recognizer.scores == undisturbed.scores
    assert (recognizer.counters.refused, recognizer.counters.swaps) == (1, 0)
    assert (recognizer.counters.dropped, recognizer.counters.doubled) == (0, 0)


def test_a_graph_of_another_model_is_refused() -> None:
    recognizer = Recognizer(make_release(1).release)
    foreign = other("other front end").files[GRAPH]
    with pytest.raises(DeviceError, match="FA-4201"):
        recognizer.swap(resealed(make_release(2), graph=foreign))
    recognizer.feed(np.zeros(1600, np.float32))
    assert recognizer.version == 1


@pytest.mark.parametrize("architecture", ["tc-stream", "ds-cnn"])
def test_weights_that_overflow_are_refused(architecture: str) -> None:
    """Each weight is finite and the digests are right; the scores are not numbers."""
    task = make_task(architecture=architecture)
    made = make_release(2, task=task)
    huge = made.release.weights | {
        "classify.weight": np.full_like(made.release.weights["classify.weight"], 3e38)
    }
    overflowing = resealed(made, weights=huge)
    with pytest.raises(DeviceError, match="FA-4202"):
        Recognizer(overflowing)
    recognizer = Recognizer(make_release(1, task=task).release)
    with pytest.raises(DeviceError, match="FA-4202"):
        recognizer.swap(overflowing)
    assert recognizer.counters.refused == 1


def test_a_release_prepared_before_a_reset_hears_only_what_comes_after_it(speech: Sound) -> None:
    recognizer = Recognizer(make_release(1).release, limits=AT_ONCE)
    fresh = Recognizer(make_release(2).release)
    recognizer.feed(speech[:SWAP_AT])
    recognizer.swap(make_release(2).release)
    recognizer.reset()
    assert recognizer.feed(speech[: 3 * 16000]) == fresh.feed(speech[: 3 * 16000])
    assert recognizer.scores == fresh.scores
    assert (recognizer.counters.dropped, recognizer.counters.doubled) == (0, 0)


def test_between_the_switch_and_the_next_hop_the_scores_are_of_the_new_labels(speech: Sound) -> None:
    recognizer = Recognizer(make_release(1).release, limits=AT_ONCE)
    recognizer.feed(speech[:SWAP_AT])
    recognizer.swap(other("other labels").release)
    recognizer.feed(speech[SWAP_AT : SWAP_AT + 1])
    assert recognizer.version == 2
    assert recognizer.scores == dict.fromkeys(("left", "right", "silence"), 0.0)
