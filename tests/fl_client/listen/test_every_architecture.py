"""Whatever a model is made of, listening gives the numbers of the model on the same sound at once."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from common.audio.batch import BatchFrontEnd
from common.models.acoustic import StreamingModel
from common.models.registry import ARCHITECTURES
from common.models.weights import get_weights
from fl_client.listen.pipeline import Pipeline
from tests.fl_client.listen.made_releases import Made, make_release, make_task, resealed

Scores = NDArray[np.float32]
HOP, WINDOW = 160, 400
SAMPLES = 3 * 16000
CLOSE = 1e-4

WIDER = {"bc-resnet-2", "bc-resnet-3"}
"""Nothing but their own width tells them from bc-resnet-1."""

EVERY = pytest.mark.parametrize(
    "architecture",
    [pytest.param(name, marks=[pytest.mark.slow] if name in WIDER else []) for name in ARCHITECTURES],
)


@cache
def release_of(architecture: str) -> Made:
    """A model that is undecided on the whole: one that is sure of the same label always proves little."""
    made = make_release(
        1, task=make_task(architecture=architecture, width=None if architecture in WIDER else 16)
    )
    with torch.no_grad():
        made.model.get_parameter("classify.bias").sub_(logits_of(made)[1].mean(dim=0))
    return replace(made, release=resealed(made, weights=get_weights(made.model)))


@cache
def sound() -> NDArray[np.float32]:
    """A tone that rises through noise: no two windows are alike."""
    noise = np.random.default_rng(5).standard_normal(SAMPLES, np.float32)
    seconds = np.arange(SAMPLES) / 16000
    tone = np.sin(2 * np.pi * (150 * seconds + 600 * seconds**2)) * (seconds % 0.7)
    return (0.02 * noise + 0.3 * tone).astype(np.float32)


def logits_of(made: Made) -> tuple[list[int], Tensor]:
    """Frames at which a decision is due, and the logits of torch's model of the window that ends there."""
    manifest, model = made.release.manifest, made.model
    features = BatchFrontEnd(manifest.task.front_end)(torch.from_numpy(sound()[None]))
    window, hop = manifest.task.clip_frames, manifest.graph.hop
    ends = list(range(window, features.shape[1] + 1, hop))
    with torch.no_grad():
        if isinstance(model, StreamingModel):
            frames, _ = model.step(features, model.initial_state(1))
            logits = torch.cat([frames[:, end - window : end].logsumexp(dim=1) for end in ends])
        else:
            logits = torch.cat([model(features[:, end - window : end]) for end in ends])
    return [end - 1 for end in ends], logits


@cache
def decisions(architecture: str) -> tuple[list[int], Scores]:
    """As `logits_of`, with scores."""
    frames, logits = logits_of(release_of(architecture))
    return frames, np.asarray(logits.softmax(dim=1))


def check(architecture: str, scores: Scores) -> None:
    made, (frames, expected) = release_of(architecture), decisions(architecture)
    assert len(scores) == 1 + (SAMPLES - WINDOW) // HOP
    np.testing.assert_allclose(scores[frames], expected, atol=CLOSE)
    assert not scores[: frames[0]].any()
    # Between two decisions the last one stands.
    hop = made.release.manifest.graph.hop
    held = np.repeat(scores[frames], hop, axis=0)[: len(scores) - frames[0]]
    np.testing.assert_array_equal(scores[frames[0] :], held)


@EVERY
@given(hops=st.lists(st.integers(1, 60), min_size=1, max_size=12), odd=st.integers(0, HOP - 1))
@settings(max_examples=6, deadline=None)
def test_blocks_of_any_size_give_the_scores_of_the_model(
    architecture: str, hops: list[int], odd: int
) -> None:
    """Blocks of whole hops in turn, again and again, after a first one that may end within a hop."""
    ends, sizes = [odd], [hop * HOP for hop in hops]
    while ends[-1] < SAMPLES:
        ends.append(ends[-1] + sizes[len(ends) % len(sizes)])
    pipeline = Pipeline(release_of(architecture).release)
    check(architecture, np.concatenate([pipeline.feed(block) for block in np.split(sound(), ends[:-1])]))


@EVERY
def test_hop_by_hop_gives_the_scores_of_the_model(architecture: str) -> None:
    pipeline = Pipeline(release_of(architecture).release)
    check(
        architecture,
        np.concatenate([pipeline.feed(block) for block in np.split(sound(), range(HOP, SAMPLES, HOP))]),
    )


@EVERY
def test_decisions_are_told_apart(architecture: str) -> None:
    """Or the comparisons above would hold for a model that says the same of everything."""
    frames, expected = decisions(architecture)
    assert len(frames) >= 4
    assert np.ptp(expected, axis=0).max() > 100 * CLOSE
