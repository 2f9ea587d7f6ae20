"""Several tasks on one stream hear what each would hear alone, and the features are computed once."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import replace
from itertools import chain, product

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from common.audio.front_end import FrontEnd, LogMel, Mfcc, Psd
from common.audio.stream import StreamFrontEnd
from common.errors import DeviceError
from common.protocol.release import Release
from fl_client.listen.counters import Counters
from fl_client.listen.front_ends import FrontEnds
from fl_client.listen.limits import SwapLimits
from fl_client.listen.recognizer import Recognizer
from fl_client.listen.settings import ListenSettings
from tests.fl_client.listen.made_faults import BANG, faulty
from tests.fl_client.listen.made_releases import make_release, make_task

Sound = NDArray[np.float32]
AT_ONCE = SwapLimits(shadow_seconds=0, wait_seconds=0, watch_seconds=1000)

TASKS: dict[str, dict[str, object]] = {
    "keywords": {},
    "scenes": {"labels": ("rain", "street", "silence"), "clip_seconds": 1.6},
    "windows": {"architecture": "ds-cnn"},
    "cepstra": {"front_end": Mfcc()},
    "other hop": {"front_end": LogMel(hop=200, window=480)},
    "gaps": {"front_end": LogMel(hop=500, window=400)},
}


def release(name: str, version: int = 1) -> Release:
    return make_release(version, task=make_task(**TASKS[name])).release


def recognizer(name: str, front_ends: FrontEnds | None) -> Recognizer:
    return Recognizer(release(name), limits=AT_ONCE, name=name, front_ends=front_ends)


def assert_same(together: Recognizer, alone: Recognizer, atol: float = 1e-4) -> None:
    assert together.version == alone.version
    assert together.seconds == alone.seconds
    ours, theirs = together.scores, alone.scores
    assert ours.keys() == theirs.keys()
    np.testing.assert_allclose(list(ours.values()), list(theirs.values()), atol=atol)


ACTIONS = ["hear", "hear", "hear", "bang", "lose", "swap", "swap front ends", "swap in a fault"]


def successor(action: str, name: str, version: int) -> Release:
    if action == "swap front ends":
        return release("cepstra" if name != "cepstra" else "keywords", version)
    if action == "swap in a fault" and name == "keywords":
        return faulty(make_release(version), "fails")
    return release(name, version)


@given(
    names=st.lists(st.sampled_from(sorted(TASKS)), min_size=2, max_size=3),
    steps=st.lists(
        st.tuples(st.sampled_from(ACTIONS), st.integers(0, 5), st.sampled_from([1, 159, 777, 3001])),
        min_size=5,
        max_size=20,
    ),
)
@settings(max_examples=8, deadline=None, phases=(Phase.explicit, Phase.generate))
def test_together_each_says_what_it_says_alone(
    names: list[str], steps: list[tuple[str, int, int]], speech: Sound
) -> None:
    """Whatever the blocks, the front ends, and what one of them swaps or takes back meanwhile."""
    shared = FrontEnds()
    pairs = [(recognizer(name, shared), recognizer(name, None)) for name in names]
    untouched = set(range(len(names)))
    at = 0
    for version, (action, number, size) in enumerate(steps, 2):
        which = number % len(names)
        piece = speech[at : at + 8 * size]
        at = (at + 8 * size) % 60_000
        if action == "bang":
            piece = np.concatenate((np.zeros(8000, np.float32), BANG))
            size = max(159, size)  # noqa: PLW2901
        if action.startswith("swap") and which in untouched:
            if action == "swap in a fault":  # after two of these there would be nobody to go back to
                untouched.remove(which)
            for one in pairs[which]:
                with suppress(DeviceError):  # it may be shown a bang of the recent past
                    one.swap(successor(action, names[which], version))
        for one in chain.from_iterable(pairs):
            one.skip(size if action == "lose" else 0, 0)
        for start, one in product(range(0, len(piece), size), chain.from_iterable(zip(*pairs, strict=True))):
            one.feed(piece[start : start + size])
        for ours, theirs in pairs:
            assert_same(ours, theirs, atol=2e-4)  # after a bang the front end takes long to settle
    for ours, theirs in pairs:
        assert exact(ours.counters) == exact(theirs.counters)


def exact(counters: Counters) -> Counters:
    """But for what the clock says."""
    return replace(counters, last_gap_seconds=0, max_gap_seconds=0)


@pytest.mark.parametrize("config", [LogMel(), Mfcc(), Psd(), LogMel(hop=500, window=400)], ids=str)
def test_a_front_end_goes_on_from_another_and_leaves_it_alone(config: FrontEnd, speech: Sound) -> None:
    other, own = StreamFrontEnd(config), StreamFrontEnd(config)
    own.feed(speech[:777])
    other.feed(speech[:20_011])
    own.follow(other)
    own.feed(speech[40_000:50_000])
    own.follow(other)
    np.testing.assert_array_equal(own.feed(speech[20_011:30_000]), other.feed(speech[20_011:30_000]))
    assert own.heard == other.heard == config.frames(30_000)


@pytest.mark.parametrize("config", [LogMel(), LogMel(hop=500, window=400)], ids=str)
def test_samples_that_belong_to_no_frame_are_passed_over(config: FrontEnd, speech: Sound) -> None:
    skipping, plain = StreamFrontEnd(config), StreamFrontEnd(config)
    skipping.reset(skip=123)
    pieces = [skipping.feed(piece) for piece in np.split(speech[:16_000], [5, 122, 124, 9000])]
    np.testing.assert_allclose(np.concatenate(pieces), plain.feed(speech[123:16_000]), atol=1e-4)


def test_the_features_of_a_block_are_computed_once_for_all_that_have_the_same_front_end(
    speech: Sound, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = []
    compute = StreamFrontEnd.feed

    def counted(self: StreamFrontEnd, samples: Sound) -> Sound:
        computed.append(self.config)
        return compute(self, samples)

    shared = FrontEnds()
    all_of_them = [recognizer(name, shared) for name in ("keywords", "scenes", "cepstra", "windows")]
    monkeypatch.setattr(StreamFrontEnd, "feed", counted)
    for start in range(0, 32_000, 320):
        for one in all_of_them:
            one.feed(speech[start : start + 320])
    assert computed.count(make_task().front_end) == computed.count(Mfcc()) == 100
    assert len(computed) == 200


def test_two_that_swap_on_and_on_lose_and_double_nothing(speech: Sound) -> None:
    """Each in a thread of its own, with releases of other weights and another front end."""
    shared = FrontEnds()
    both = [recognizer("keywords", shared), recognizer("scenes", shared)]
    made = [release(name, version) for version, name in enumerate(("keywords", "cepstra", "windows"), 1)]
    done = threading.Event()

    def swap_on_and_on(one: Recognizer) -> None:
        version = 1
        while not done.is_set():
            version += 1
            following = made[version % 3]
            manifest = following.manifest.model_copy(update={"version": version})
            one.swap(replace(following, manifest=manifest))

    threads = [threading.Thread(target=swap_on_and_on, args=(one,)) for one in both]
    for thread in threads:
        thread.start()
    fed = 0
    try:
        while min(one.counters.swaps for one in both) < 40:
            at, size = fed % (len(speech) - 200), 1 + fed % 199
            for one in both:
                one.feed(speech[at : at + size])
            fed += size
    finally:
        done.set()
        for thread in threads:
            thread.join()
    for one in both:
        assert one.counters.hops == make_task().front_end.frames(fed)
        assert (one.counters.dropped, one.counters.doubled, one.counters.refused) == (0, 0, 0)


@pytest.mark.parametrize("gate_db", [None, 6.0])
@pytest.mark.parametrize("name", ["keywords", "other hop", "windows"])
@pytest.mark.parametrize("joins_at", [16_077, 200_001])
def test_who_joins_late_says_from_then_on_what_it_would_have_said(
    name: str, gate_db: float | None, joins_at: int, speech: Sound
) -> None:
    """Also where the stream is longer than what is kept of it; what came in while the joining one was made
    ready is not lost."""
    owner, shared = ListenSettings(gate_db=gate_db), FrontEnds()
    first = Recognizer(release("keywords"), front_ends=shared)
    always, late = (Recognizer(release(name), owner, name=name, front_ends=f) for f in (None, shared))
    sound = np.tile(speech, 3)
    for one in (first, always):
        one.feed(sound[: joins_at - 5000])
        one.skip(1234)
    late.join(first)
    for one in (first, always):
        one.feed(sound[joins_at - 5000 : joins_at])
    late.join(first)
    heard = always.counters.hops
    events = []
    for start in range(joins_at, joins_at + 64_000, 777):
        block = sound[start : start + 777]
        first.feed(block)
        expected, said = always.feed(block), late.feed(block)
        assert_same(late, always)
        if start > joins_at + 32_000:
            events += said
            assert [(e.label, e.start, e.end) for e in said] == [(e.label, e.start, e.end) for e in expected]
    assert {event.task for event in events} <= {name}
    assert len(events) > 0 or name == "windows"  # which says little of these words
    assert late.counters.hops == always.counters.hops - heard
    assert (late.counters.dropped, late.counters.doubled, late.counters.overruns) == (0, 0, 0)
