"""A stream is scored as the model scores clips, however it is cut."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from common.audio.batch import BatchFrontEnd
from common.audio.front_end import Mfcc, Psd
from fl_client.listen.events import Event
from fl_client.listen.pipeline import Pipeline
from fl_client.listen.recognizer import Recognizer
from tests.fl_client.listen.made_releases import LABELS, Made, make_release, make_task

Sound = NDArray[np.float32]
CLIP = 16000


def clip_scores(made: Made, clip: Sound) -> NDArray[np.float32]:
    """What the torch model and the batch front end make of one clip."""
    front_end = BatchFrontEnd(made.release.manifest.task.front_end)
    with torch.no_grad():
        return np.asarray(made.model(front_end(torch.from_numpy(clip[None]))).softmax(dim=-1)[0])


@pytest.mark.parametrize(
    "changes",
    [{}, {"architecture": "ds-cnn"}, {"front_end": Mfcc()}, {"front_end": Psd()}, {"clip_seconds": 0.7}],
    ids=str,
)
def test_after_one_clip_the_scores_are_the_models_scores_of_that_clip(
    changes: dict[str, object], speech: Sound
) -> None:
    made = make_release(1, task=make_task(**changes))
    samples = made.release.manifest.task.clip_samples
    recognizer = Recognizer(made.release)
    for start in range(0, 5 * CLIP, CLIP):
        clip = speech[start : start + samples]
        recognizer.reset()
        recognizer.feed(clip)
        scores = np.array([recognizer.scores[label] for label in LABELS])
        np.testing.assert_allclose(scores, clip_scores(made, clip), atol=1e-4)


def test_the_sliding_window_scores_every_window_as_log_mean_exp(speech: Sound) -> None:
    """Against the definition, in float64, from frame logits of torch."""
    made = make_release(1)
    features = BatchFrontEnd(made.release.manifest.task.front_end)(torch.from_numpy(speech[None, : 3 * CLIP]))
    with torch.no_grad():
        logits, _ = made.model.step(features, made.model.initial_state(1))  # type: ignore[operator]
    frames = logits[0].double().numpy()
    window = made.release.manifest.task.clip_frames
    scores = Pipeline(made.release).feed(speech[: 3 * CLIP])
    assert len(scores) == len(frames) > 2 * window
    assert not scores[: window - 1].any()
    for end in range(window, len(frames) + 1):
        pooled = np.log(np.mean(np.exp(frames[end - window : end]), axis=0))
        expected = np.exp(pooled) / np.exp(pooled).sum()
        np.testing.assert_allclose(scores[end - 1], expected, atol=1e-4)


def test_a_window_graph_is_evaluated_at_its_hop_and_stands_in_between(speech: Sound) -> None:
    made = make_release(1, task=make_task(architecture="ds-cnn"))
    scores = Pipeline(made.release).feed(speech[: 3 * CLIP])
    first = made.release.manifest.task.clip_frames - 1
    assert not scores[:first].any()
    steps = np.flatnonzero(np.abs(np.diff(scores, axis=0)).max(axis=1) > 0) + 1
    assert len(steps) > 10
    assert set((steps - first) % made.release.manifest.graph.hop) == {0}


@pytest.mark.parametrize("architecture", ["tc-stream", "ds-cnn"])
@given(cuts=st.lists(st.integers(0, 3 * CLIP), max_size=25))
@settings(max_examples=15, deadline=None)
def test_blocks_change_neither_scores_nor_events(architecture: str, cuts: list[int], speech: Sound) -> None:
    made = make_release(1, task=make_task(architecture=architecture))
    sound = speech[: 3 * CLIP]
    whole, cut = Pipeline(made.release), Pipeline(made.release)
    pieces = np.split(sound, sorted(cuts))
    np.testing.assert_allclose(
        np.concatenate([cut.feed(piece) for piece in pieces]), whole.feed(sound), atol=1e-4
    )

    def facts(events: list[Event]) -> list[tuple[str, float, float]]:
        return [(event.label, event.start, event.end) for event in events]

    at_once, in_pieces = Recognizer(made.release), Recognizer(made.release)
    expected = at_once.feed(sound)
    assert facts(list(in_pieces.listen(pieces))) == facts(expected)
    assert in_pieces.counters == at_once.counters


def test_single_samples_are_blocks_too(speech: Sound) -> None:
    made = make_release(1)
    sound = speech[: CLIP + 4000]
    one_by_one = Pipeline(made.release)
    scores = np.concatenate([one_by_one.feed(sound[i : i + 1]) for i in range(len(sound))])
    np.testing.assert_allclose(scores, Pipeline(made.release).feed(sound), atol=1e-4)


def test_real_speech_makes_events_within_the_stream_and_they_are_counted(speech: Sound) -> None:
    recognizer = Recognizer(make_release(1).release)
    events = recognizer.feed(speech)
    assert len(events) >= 3
    assert [event.end for event in events] == sorted(event.end for event in events)
    assert all(0 <= event.start < event.end <= len(speech) / CLIP for event in events)
    assert {event.label for event in events} <= set(LABELS) - {"background"}
    counters = recognizer.counters
    assert counters.events == len(events)
    assert counters.hops == make_task().front_end.frames(len(speech))
    assert counters.dropped == counters.doubled == 0


def test_reset_leaves_nothing_of_what_was_heard(speech: Sound) -> None:
    used, fresh = (Recognizer(make_release(1).release) for _ in range(2))
    used.feed(speech[3333:])
    used.skip(777)
    used.reset()
    assert used.seconds == 0
    assert not any(used.scores.values())
    assert used.feed(speech[: 4 * CLIP]) == fresh.feed(speech[: 4 * CLIP])
    assert used.scores == fresh.scores


def test_lost_sound_is_counted_and_time_goes_on(speech: Sound) -> None:
    whole, gappy = (Recognizer(make_release(1).release) for _ in range(2))
    before, after = speech[: 3 * CLIP], speech[3 * CLIP :]
    expected = whole.feed(before)
    assert gappy.feed(before) == expected
    later = whole.feed(after)
    gappy.skip(16001)
    shifted = gappy.feed(after)
    assert len(later) > 0
    assert [event.label for event in shifted] == [event.label for event in later]
    # An event is timed by its end; the window of the first ones spans the hole.
    assert [event.end - 16001 / CLIP for event in shifted] == pytest.approx([event.end for event in later])
    assert gappy.counters.dropped == 101
    assert gappy.counters.overruns == 1
    assert gappy.seconds == pytest.approx((len(speech) + 16001) / CLIP)


def test_the_counters_given_out_are_a_copy(speech: Sound) -> None:
    recognizer = Recognizer(make_release(1).release)
    before = recognizer.counters
    recognizer.feed(speech[:CLIP])
    assert before.hops == 0
    assert asdict(recognizer.counters)["hops"] == 98
