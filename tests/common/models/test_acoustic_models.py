"""What models promise: a stream gives the numbers of a window, nothing looks into the future, sizes are
known."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from common.errors import TrainingError
from common.models.acoustic import StreamingModel
from common.models.registry import ARCHITECTURES, build_model
from common.models.weights import get_weights
from common.task import Task

TASK = Task(labels=tuple(f"word {i}" for i in range(12)))
FRAMES = 160


STREAMING = pytest.mark.parametrize("architecture", ["tc-stream", "bc-resnet-1", "bc-resnet-3"])


def streaming_model(architecture: str) -> StreamingModel:
    task = TASK.model_copy(update={"architecture": architecture})
    model = build_model(task, torch.Generator().manual_seed(1))
    assert isinstance(model, StreamingModel)
    return model


def features(seed: int, frames: int = FRAMES) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, frames, TASK.front_end.features, generator=generator)


@torch.no_grad()
def in_chunks(model: StreamingModel, frames: Tensor, sizes: list[int]) -> Tensor:
    state, logits = model.initial_state(1), []
    for chunk in frames.split(sizes, dim=1):
        part, state = model.step(chunk, state)
        logits.append(part)
    return torch.cat(logits, dim=1)


@STREAMING
@settings(max_examples=10, deadline=None)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=8), seed=st.integers(0, 1000))
def test_any_chunking_gives_the_logits_of_the_whole(architecture: str, sizes: list[int], seed: int) -> None:
    model, frames = streaming_model(architecture), features(seed, sum(sizes))
    whole = in_chunks(model, frames, [frames.shape[1]])
    torch.testing.assert_close(in_chunks(model, frames, sizes), whole, atol=1e-4, rtol=0)


@STREAMING
def test_frame_by_frame_gives_the_logits_of_the_whole(architecture: str) -> None:
    model, frames = streaming_model(architecture), features(2)
    single = in_chunks(model, frames, [1] * FRAMES)
    torch.testing.assert_close(single, in_chunks(model, frames, [FRAMES]), atol=1e-4, rtol=0)


@STREAMING
def test_the_score_of_a_window_is_the_log_mean_exp_of_its_frames(architecture: str) -> None:
    model, frames = streaming_model(architecture), features(3)
    steps = in_chunks(model, frames, [1] * FRAMES)
    with torch.no_grad():
        torch.testing.assert_close(model(frames), steps.exp().mean(dim=1).log(), atol=1e-4, rtol=0)


@STREAMING
@given(cut=st.integers(1, FRAMES - 1))
@settings(max_examples=10, deadline=None)
def test_the_future_does_not_reach_the_past(architecture: str, cut: int) -> None:
    model, frames = streaming_model(architecture), features(4)
    other = frames.clone()
    other[:, cut:] = features(5)[:, cut:]
    first, second = in_chunks(model, frames, [FRAMES]), in_chunks(model, other, [FRAMES])
    torch.testing.assert_close(first[:, :cut], second[:, :cut], atol=0, rtol=0)
    assert not torch.equal(first[:, cut], second[:, cut])


@pytest.mark.parametrize(("architecture", "field"), [("tc-stream", 81), ("bc-resnet-1", 117)])
def test_the_receptive_field_is_exact(architecture: str, field: int) -> None:
    """In float64: what the oldest frame adds is small."""
    model, frames = streaming_model(architecture).double(), features(6).double()
    last = in_chunks(model, frames, [FRAMES])[:, -1]
    assert model.receptive_field == field
    for back, same in ((model.receptive_field, True), (model.receptive_field - 1, False)):
        touched = frames.clone()
        touched[:, -1 - back] += 10.0
        assert torch.equal(in_chunks(model, touched, [FRAMES])[:, -1], last) is same


def parameters(task: Task) -> int:
    return sum(value.size for value in get_weights(build_model(task, torch.Generator())).values())


@pytest.mark.parametrize(
    ("architecture", "count"),
    [
        ("tc-stream", 95_092),
        ("tc-window", 111_604),
        ("ds-cnn", 23_180),
        ("bc-resnet-1", 11_768),
        ("bc-resnet-2", 32_356),
        ("bc-resnet-3", 61_776),
        ("cp-mobile", 58_964),
    ],
)
def test_size(architecture: str, count: int) -> None:
    assert parameters(TASK.model_copy(update={"architecture": architecture})) == count


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_width_sets_the_size(architecture: str) -> None:
    narrow, wide = (
        parameters(TASK.model_copy(update={"architecture": architecture, "width": width}))
        for width in (30, 60)
    )
    assert 2 < wide / narrow < 4


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", ["log-mel", "mfcc", "psd"])
def test_every_architecture_takes_every_front_end(architecture: str, kind: str) -> None:
    task = Task.model_validate(
        {"labels": ["a", "b", "c"], "architecture": architecture, "front_end": {"kind": kind}, "width": 8}
    )
    model = build_model(task, torch.Generator().manual_seed(0))
    assert 1 <= model.hop <= model.receptive_field
    logits = model(torch.randn(5, task.clip_frames, task.front_end.features))
    assert logits.shape == (5, 3)
    assert logits.isfinite().all()
    assert not list(model.buffers())  # a buffer would be left behind by federated averaging


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_generator_alone_decides_the_initial_weights(architecture: str) -> None:
    task = TASK.model_copy(update={"architecture": architecture})
    before = torch.get_rng_state()
    first, again, other = (
        torch.cat([p.flatten() for p in build_model(task, torch.Generator().manual_seed(s)).parameters()])
        for s in (7, 7, 8)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_initial_scores_are_undecided(architecture: str) -> None:
    """The mean over all labels: one that is likelier than the others makes up for one that is not."""
    task = TASK.model_copy(update={"architecture": architecture})
    model = build_model(task, torch.Generator().manual_seed(0))
    with torch.no_grad():
        losses = -torch.log_softmax(model(features(0, task.clip_frames)), dim=1)
    assert losses.mean().item() == pytest.approx(math.log(len(task.labels)), rel=0.5)


def test_a_deep_model_learns_soon() -> None:
    """Four courses of bands in noise: a few steps must tell them apart."""
    task = Task(labels=("a", "b", "c", "d"), architecture="bc-resnet-1", width=8, clip_seconds=0.5)
    generator = torch.Generator().manual_seed(1)
    model = build_model(task, generator)
    shape = task.clip_frames, task.front_end.features
    courses = torch.randn(4, shape[0] // 8 + 1, shape[1], generator=generator)
    courses = courses.repeat_interleave(8, dim=1)[:, : shape[0]]
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        labels = torch.randint(4, (16,), generator=generator)
        sounds = 1 + 0.5 * courses[labels] + 0.5 * torch.randn(16, *shape, generator=generator)
        loss = torch.nn.functional.cross_entropy(model(sounds), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) / 10 < math.log(4) / 3


@pytest.mark.parametrize(("name", "near"), [("tc-strem", "tc-stream"), ("dscnn", "ds-cnn")])
def test_unknown_architecture_names_the_nearest(name: str, near: str) -> None:
    with pytest.raises(TrainingError, match=f"FA-7001.*{near}"):
        build_model(TASK.model_copy(update={"architecture": name}), torch.Generator())
