"""The contract of `fl_client.listen.swap`: who takes over, who does not, and who gives back."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from common.errors import DeviceError
from common.protocol.release import Release
from fl_client.listen.counters import Counters
from fl_client.listen.limits import SwapLimits
from fl_client.listen.pipeline import Pipeline
from fl_client.listen.recognizer import Recognizer
from fl_client.listen.swap import HotSwap
from tests.fl_client.listen.heard_swaps import BLOCK, BRIEF, NOT_COMPARED, Sound, hear, is_whole
from tests.fl_client.listen.made_faults import BANG, Fault, always, faulty, mistaken
from tests.fl_client.listen.made_releases import make_release, make_task


def renumbered(release: Release, version: int) -> Release:
    return replace(release, manifest=release.manifest.model_copy(update={"version": version}))


def test_a_release_shadows_the_one_at_work_and_takes_over_when_it_is_fit(speech: Sound) -> None:
    recognizer = Recognizer(make_release(1).release, limits=replace(BRIEF, wait_seconds=60, watch_seconds=9))
    hear(recognizer, speech[:48_000])
    recognizer.swap(make_release(2, seed=1).release)
    assert recognizer.on_trial
    assert hear(recognizer, speech[48_000:51_000]) == []  # not before it has shadowed for 0.3 s
    (told,) = hear(recognizer, speech[51_000:])
    assert (told.outcome, told.from_version, told.to_version, told.reason) == ("swapped", 1, 2, "")
    assert told.agreement in (1.0, None)
    assert told.gap_seconds > 0
    assert told.at >= 3.3
    assert is_whole(recognizer.counters, len(speech))
    assert recognizer.on_trial
    hear(recognizer, np.tile(speech, 2))
    assert not recognizer.on_trial
    assert (recognizer.counters.swaps, recognizer.counters.rollbacks) == (1, 0)


def test_it_never_takes_over_while_a_trigger_is_open(speech: Sound) -> None:
    swap = HotSwap(make_release(1).release, replace(BRIEF, wait_seconds=60), Counters())
    swap.feed(speech[:48_000], is_open=False)
    swap.offer(make_release(2, seed=1).release)
    for start in range(0, 64_000, BLOCK):
        swap.feed(speech[start : start + BLOCK], is_open=True)
        assert swap._shadow is not None
        swap._shadow.end_turn()
    assert (swap.pipeline.release.version, swap.shadowed) == (1, True)
    swap.feed(speech[:BLOCK], is_open=False)
    (told,) = swap.messages
    assert (told.outcome, told.to_version, told.reason) == ("swapped", 2, "")
    assert 3 < told.waited_seconds < 4


def test_what_is_above_its_threshold_is_an_open_trigger(speech: Sound) -> None:
    """By the scores, and not by what the recognizer says of itself."""
    task, waited = make_task(), 0.0
    for start in range(20_000, 100_000, 4_000):
        recognizer = Recognizer(make_release(1).release, limits=replace(BRIEF, wait_seconds=60))
        recognizer.feed(speech[:start])
        recognizer.swap(make_release(2, seed=1).release)
        for at in range(start, len(speech), BLOCK):
            score = max(score for label, score in recognizer.scores.items() if label != "background")
            told = hear(recognizer, speech[at : at + BLOCK])
            if told:
                assert score < task.trigger.threshold
                waited += told[0].waited_seconds
                break
    assert waited > 1


def test_a_shadow_that_is_far_behind_comes_nearer_before_it_takes_over(speech: Sound) -> None:
    """For what it has missed would hold up the thread that feeds."""
    swap = HotSwap(make_release(1).release, replace(BRIEF, wait_seconds=60), Counters())
    swap.feed(speech[:48_000], is_open=False)
    swap.offer(make_release(2, seed=1).release)

    def feed(size: int, *, is_open: bool) -> int:
        swap.feed(speech[:size], is_open=is_open)
        if swap._shadow is not None:
            swap._shadow.end_turn()
        return swap.pipeline.release.version

    for _ in range(50):
        assert feed(BLOCK, is_open=True) == 1
    assert swap._shadow is not None
    assert swap._shadow.ready_at is not None
    assert feed(4_000, is_open=True) == 1
    assert feed(BLOCK, is_open=False) == 1
    assert feed(BLOCK, is_open=False) == 2


def test_a_trigger_that_stays_open_delays_a_swap_for_so_long_and_no_longer(speech: Sound) -> None:
    recognizer = Recognizer(always(make_release(1), 0), limits=BRIEF)
    hear(recognizer, speech[:48_000])
    recognizer.swap(always(make_release(2), 0))
    (told,) = hear(recognizer, speech[48_000:])
    assert told.outcome == "swapped"
    assert "a trigger was open for 0.5 s" in told.reason
    assert 0.5 <= told.waited_seconds <= 0.6
    assert told.agreement == 1.0


def test_of_two_releases_that_disagree_with_the_one_at_work_the_second_takes_over(speech: Sound) -> None:
    recognizer = Recognizer(make_release(1).release, limits=BRIEF)
    hear(recognizer, speech[:48_000])
    recognizer.swap(mistaken(make_release(2, seed=1)))
    (told,) = hear(recognizer, speech[:64_000])
    assert told.outcome == "refused"
    assert told.agreement is not None
    assert told.agreement < 0.2
    assert "agrees" in told.reason
    assert recognizer.version == 1
    assert recognizer.counters.refused == 1
    recognizer.swap(mistaken(make_release(3, seed=1)))
    (told,) = hear(recognizer, speech[:64_000])
    assert (told.outcome, told.to_version) == ("swapped", 3)
    assert is_whole(recognizer.counters, 48_000 + 128_000)


def test_a_release_that_restores_an_older_one_need_not_agree(speech: Sound) -> None:
    recognizer = Recognizer(make_release(1).release, limits=BRIEF)
    hear(recognizer, speech[:48_000])
    release = mistaken(make_release(2, seed=1))
    manifest = release.manifest.model_copy(update={"restores": 0})
    recognizer.swap(replace(release, manifest=manifest))
    (told,) = hear(recognizer, speech[:64_000])
    assert told.outcome == "swapped"


def test_labels_that_only_one_of_them_knows_are_no_disagreement(speech: Sound) -> None:
    recognizer = Recognizer(make_release(1).release, limits=BRIEF)
    hear(recognizer, speech[:48_000])
    recognizer.swap(make_release(2, task=make_task(labels=("left", "right", "silence"))).release)
    (told,) = hear(recognizer, speech[:64_000])
    assert (told.outcome, told.agreement) == ("swapped", None)


@pytest.mark.parametrize("fault", ["fails", "not numbers"])
def test_a_shadow_that_fails_is_refused_and_the_live_sound_goes_on(fault: Fault, speech: Sound) -> None:
    recognizer, undisturbed = (Recognizer(make_release(1).release, limits=BRIEF) for _ in range(2))
    sound = np.concatenate((speech[:40_000], np.zeros(16_000, np.float32), BANG, speech))
    hear(recognizer, sound[:55_000])
    recognizer.swap(faulty(make_release(2, seed=1), fault))
    (told,) = hear(recognizer, sound[55_000:])
    assert (told.outcome, told.from_version, told.to_version) == ("refused", 1, 2)
    hear(undisturbed, sound)
    assert recognizer.scores == undisturbed.scores
    assert is_whole(recognizer.counters, len(sound))


@pytest.mark.parametrize("fault", ["fails", "not numbers"])
@pytest.mark.parametrize("again", [0, 2])
def test_a_release_that_fails_at_work_gives_back_from_that_very_hop_on(
    fault: Fault, again: int, speech: Sound
) -> None:
    """Also long after its watch is over."""
    recognizer = Recognizer(make_release(1).release, limits=replace(NOT_COMPARED, watch_seconds=9))
    undisturbed = Recognizer(make_release(1).release)
    quiet = np.tile(speech, 1 + again)
    sound = np.concatenate((quiet, np.zeros(16_000, np.float32), BANG, speech))
    hear(recognizer, sound[:32_000])
    recognizer.swap(faulty(make_release(2, seed=2), fault))
    (swapped,) = hear(recognizer, sound[32_000 : len(quiet)])
    assert (swapped.outcome, recognizer.version) == ("swapped", 2)
    (told,) = hear(recognizer, sound[len(quiet) :])
    assert (told.outcome, told.from_version, told.to_version) == ("rolled-back", 2, 1)
    assert told.at == pytest.approx((len(quiet) + 16_000) / 16_000, abs=0.05)
    undisturbed.feed(sound)
    np.testing.assert_allclose(list(recognizer.scores.values()), list(undisturbed.scores.values()), atol=1e-3)
    assert is_whole(recognizer.counters, len(sound))
    assert (recognizer.counters.swaps, recognizer.counters.rollbacks) == (1, 1)
    assert not recognizer.on_trial


def test_without_one_before_it_a_failing_graph_is_raised(speech: Sound) -> None:
    recognizer = Recognizer(faulty(make_release(1), "fails"))
    recognizer.feed(np.zeros(32_000, np.float32))
    with pytest.raises(Exception, match="Gather"):
        recognizer.feed(BANG)


def test_a_golden_clip_that_sounds_otherwise_is_refused(speech: Sound) -> None:
    recognizer = Recognizer(make_release(1).release)
    hear(recognizer, speech[:16_000])
    release = make_release(2).release
    golden = release.manifest.golden.model_copy(update={"scores": (0.25, 0.25, 0.25, 0.25)})
    with pytest.raises(DeviceError, match="FA-4104"):
        recognizer.swap(replace(release, manifest=release.manifest.model_copy(update={"golden": golden})))
    (told,) = recognizer.swaps()
    assert (told.outcome, recognizer.version) == ("refused", 1)


FAULTS = {"fails", "not numbers"}
RELEASES = {
    "good": lambda version: make_release(version % 3).release,
    "fails": lambda version: faulty(make_release(version % 3), "fails"),
    "not numbers": lambda version: faulty(make_release(version % 3), "not numbers"),
    "other hop": lambda version: make_release(version % 3, task=make_task(architecture="ds-cnn")).release,
}


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["hear", "hear", "hear", "bang", *RELEASES]), st.sampled_from([1, 159, 777, 8001])
        ),
        min_size=5,
        max_size=30,
    ),
    shadow=st.sampled_from([0.0, 0.2]),
    prompt=st.booleans(),
)
@settings(max_examples=12, deadline=None, phases=(Phase.explicit, Phase.generate))
def test_whatever_happens_when_each_hop_is_scored_once_and_by_one_release(
    steps: list[tuple[str, int]], shadow: float, prompt: bool, speech: Sound
) -> None:
    """Hop by hop, against each release hearing the whole stream on its own."""
    limits = SwapLimits(shadow_seconds=shadow, wait_seconds=0.1, agreement=0)
    swap = HotSwap(RELEASES["good"](0), limits, Counters())
    faults: set[int] = set()
    releases, heard, rows, by = {0: RELEASES["good"](0)}, [np.empty(0, np.float32)], [], []
    for version, (wish, size) in enumerate(steps, 1):
        kind = wish
        if kind in RELEASES:
            # With two that fail one after the other there is nobody to go back to.
            waiting = swap._shadow.pipeline if swap._shadow is not None else swap.pipeline
            if {swap.pipeline.release.version, waiting.release.version} & faults:
                kind = "good"
            if kind in FAULTS:
                faults.add(version)
            releases[version] = renumbered(RELEASES[kind](version), version)
            with suppress(DeviceError):  # it hears the bang when it is shown the recent past
                swap.offer(releases[version])
        piece = np.concatenate((np.zeros(8000, np.float32), BANG)) if kind == "bang" else speech[:size]
        for start in range(0, len(piece), 700):
            first, scores = swap.feed(piece[start : start + 700], is_open=start % 1400 == 0)
            assert first == len(rows)
            rows += list(scores)
            by += [swap.pipeline.release.version] * len(scores)
            if prompt and swap._shadow is not None:
                swap._shadow.end_turn()
        heard.append(piece)
    sound = np.concatenate(heard)
    assert len(rows) == make_task().front_end.frames(len(sound))
    for version in set(by):
        alone = _of_calm_graph(releases[version]).feed(sound)
        own = [hop for hop, scorer in enumerate(by) if scorer == version]
        np.testing.assert_allclose(np.array(rows)[own], alone[own], atol=2e-4)


def _of_calm_graph(release: Release) -> Pipeline:
    """What `release` would say if its graph had no fault."""
    return Pipeline(release if release.manifest.task.architecture == "ds-cnn" else _calm(release))


def _calm(release: Release) -> Release:
    graph = make_release(0).release
    manifest = release.manifest.model_copy(update={"graph": graph.manifest.graph})
    return Release(manifest, release.weights, graph.graph)
