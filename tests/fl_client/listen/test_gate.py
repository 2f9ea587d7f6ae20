"""The energy gate: what it lets through is scored as if it were not there."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fl_client.listen.gate import Gate
from fl_client.listen.limits import SwapLimits
from fl_client.listen.loudness import TICK
from fl_client.listen.pipeline import Pipeline
from fl_client.listen.recognizer import Recognizer
from fl_client.listen.settings import ListenSettings
from tests.fl_client.listen.made_releases import make_release, make_task

RATE = 16_000
Sound = NDArray[np.float32]


def noise(seconds: float, rms: float, seed: int = 0) -> Sound:
    drawn = np.random.default_rng(seed).standard_normal(round(seconds * RATE)) * rms
    return drawn.astype(np.float32)


def gates(sound: Sound, above_db: float = 6, hold: int = 0, cuts: tuple[int, ...] = ()) -> NDArray[np.bool_]:
    """Of every tick of `sound`."""
    gate, found, at = Gate(above_db), [], 0
    for block in np.split(sound, sorted(cuts)):
        first, at = at // TICK, at + len(block)
        gate.feed(block)
        found.append(gate.open(np.arange(first + 1, at // TICK + 1) * TICK, hold))
    return np.concatenate(found)


def test_it_opens_with_a_sound_at_10_db_and_closes_after_it() -> None:
    room = noise(10, 0.01)
    room[5 * RATE : 6 * RATE] += noise(1, 0.01 * 10**0.5, seed=1)
    found = gates(room)
    assert not found[30:499].any()
    assert found[505:600].all()
    assert not found[625:].any()
    held = gates(room, hold=RATE)
    assert held[505:700].all()
    assert not held[730:].any()


def test_a_noise_that_goes_on_becomes_the_floor_and_a_word_in_it_still_opens() -> None:
    room = np.concatenate((noise(5, 0.001), noise(60, 0.01, seed=1)))  # a fan, 20 dB louder
    room[60 * RATE : 61 * RATE] += noise(1, 0.1, seed=2)
    found = gates(room)
    assert found[510:1000].all()
    assert not found[2500:5990].any()
    assert found[6005:6100].all()


@pytest.mark.parametrize("offset", [0.0, 0.2])
def test_a_constant_offset_of_the_microphone_hides_nothing(offset: float) -> None:
    room = noise(6, 0.001) + np.float32(offset)
    room[3 * RATE : 4 * RATE] += noise(1, 0.01, seed=1)
    found = gates(room)
    assert found[305:400].all()
    assert not found[100:299].any()


def test_it_is_closed_in_digital_silence_and_opens_after_it() -> None:
    found = gates(np.concatenate((np.zeros(4 * RATE, np.float32), noise(1, 1e-4))))
    assert not found[:400].any()
    assert found[402:].all()


def test_what_is_no_sound_does_not_jam_it() -> None:
    room = noise(5, 0.01)
    room[100], room[200] = np.nan, np.inf
    room[4 * RATE :] *= 10
    assert gates(room)[402:].all()


@given(cuts=st.lists(st.integers(0, 3 * RATE), max_size=8), hold=st.integers(0, RATE))
def test_blocks_make_no_difference(cuts: list[int], hold: int) -> None:
    room = noise(3, 0.01)
    room[RATE : RATE + 4000] *= 10
    assert np.array_equal(gates(room, hold=hold, cuts=tuple(cuts)), gates(room, hold=hold))


class Pattern(Gate):
    """A gate that is open at given hops, whatever it hears."""

    def __init__(self, opened: NDArray[np.bool_], hop: int, window: int) -> None:
        super().__init__(6)
        self._opened, self._hop, self._window = opened, hop, window

    def open(self, ends: NDArray[np.int64], hold: int) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = self._opened[(ends - self._window) // self._hop]
        return found


@cache
def pipeline(architecture: str) -> Pipeline:
    return Pipeline(make_release(1, task=make_task(architecture=architecture, clip_seconds=0.5)).release)


@pytest.mark.parametrize("architecture", ["tc-stream", "ds-cnn"])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_scores_behind_an_open_gate_are_those_of_a_stream_without_one(
    architecture: str, data: st.DataObject
) -> None:
    """Gates that open and close anywhere, for a hop or for longer than anything is remembered."""
    sound = noise(8, 0.1) * np.float32(1.1 + np.sin(np.arange(8 * RATE) / 3000))
    subject = pipeline(architecture)
    subject.start(0)
    expected = subject.feed(sound)
    lengths = data.draw(st.lists(st.sampled_from([1, 2, 9, 40, 150, 400]), min_size=1, max_size=30))
    opened = np.resize(np.repeat(np.arange(len(lengths)) % 2 == 0, lengths), len(expected))
    front_end = subject.task.front_end
    gate = Pattern(opened, front_end.hop, front_end.window)
    subject.start(0)
    found, rested = [], 0
    for block in np.split(sound, sorted(data.draw(st.lists(st.integers(0, len(sound)), max_size=5)))):
        found.append(subject.feed(block, gate))
        rested += subject.gated
    scores = np.concatenate(found)
    assert subject.hop == len(expected)
    assert rested == np.count_nonzero(~opened)
    np.testing.assert_allclose(scores[opened], expected[opened], atol=1e-4)
    assert not scores[~opened].any()


def test_words_with_pauses_give_the_same_events_and_the_pauses_are_counted(speech: Sound) -> None:
    quiet = noise(5, 1e-4)
    sound = np.concatenate([quiet, speech, quiet, speech[: 2 * RATE], quiet])
    room = sound + noise(len(sound) / RATE, 1e-4, seed=2)
    release = make_release(1, task=make_task(labels=("yes", "no", "stop", "background"))).release
    always, gated = Recognizer(release), Recognizer(release, ListenSettings(gate_db=6))
    expected = always.feed(room)
    found = [event for start in range(0, len(room), 1234) for event in gated.feed(room[start : start + 1234])]
    assert gated.counters.hops == always.counters.hops
    # Of fifteen quiet seconds one after each word stays open, and what the model hears before goes on.
    assert gated.counters.gated > 800
    words = [(5.0, 5.0 + len(speech) / RATE), (10.0 + len(speech) / RATE, 12.0 + len(speech) / RATE)]
    spoken = [one for one in expected if any(a + 1 < one.end < b + 0.5 for a, b in words)]
    assert len(spoken) >= 3
    assert {(one.label, one.end) for one in spoken} <= {(one.label, one.end) for one in found}


def test_the_gate_goes_on_through_a_swap_to_another_grid(speech: Sound) -> None:
    other = make_task(front_end={"kind": "log-mel", "window": 512, "hop": 320})
    at_once = SwapLimits(shadow_seconds=0, wait_seconds=0)
    recognizer = Recognizer(make_release(1).release, ListenSettings(gate_db=6), at_once)
    recognizer.feed(np.concatenate((noise(5, 1e-4), speech[: 3 * RATE])))
    before = recognizer.counters.gated
    recognizer.swap(make_release(2, task=other).release)
    for second in range(5):
        recognizer.feed(noise(1, 1e-4, seed=second))
    counters = recognizer.counters
    assert (counters.swaps, counters.dropped, counters.doubled) == (1, 0, 0)
    # Hops of 20 ms now; open for a second after the last word.
    assert 150 < counters.gated - before < 250
