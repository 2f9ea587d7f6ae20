"""The graph says what the model says, for any chunking and any weights, without torch."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch

from common.files import sha256
from common.models.acoustic import AcousticModel, StreamingModel
from common.models.export import export_graph
from common.models.registry import build_model
from common.models.weights import get_weights
from common.protocol.release import Graph
from common.protocol.tensors import Weights
from common.task import Task

STREAMING = ("tc-stream", "bc-resnet-1")
WINDOWED = ("tc-window", "ds-cnn", "cp-mobile")
TASKS = {
    name: Task(labels=("left", "right", "stop"), architecture=name, width=24)
    for name in (*STREAMING, *WINDOWED)
}
"""At one width, bc-resnet-2 and bc-resnet-3 are bc-resnet-1."""


@cache
def exported(architecture: str) -> tuple[bytes, Graph, onnxruntime.InferenceSession]:
    task = TASKS[architecture]
    data, graph = export_graph(build_model(task, torch.Generator().manual_seed(0)), task)
    return data, graph, onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])


def model_of(architecture: str, seed: int) -> AcousticModel:
    return build_model(TASKS[architecture], torch.Generator().manual_seed(seed))


def sound(frames: int, seed: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((1, frames, 40), np.float32)


def run_stream(
    architecture: str, weights: Weights, chunks: list[npt.NDArray[np.float32]]
) -> Iterator[npt.NDArray[np.float32]]:
    _, graph, session = exported(architecture)
    state = {name: np.zeros(shape, np.float32) for name, shape in graph.state.items()}
    for chunk in chunks:
        logits, *following = session.run(None, {"frames": chunk, **state, **weights})
        state = dict(zip(state, following, strict=True))
        yield logits


@pytest.mark.parametrize("architecture", STREAMING)
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("block", [1, 2, 7, 98])
def test_chained_blocks_equal_the_model(block: int, seed: int, architecture: str) -> None:
    """Seed 1 is a model other than the exported one: its weights are fed, not found in the graph."""
    model, frames = model_of(architecture, seed), sound(196, block)
    assert isinstance(model, StreamingModel)
    chunks = [frames[:, start : start + block] for start in range(0, 196, block)]
    logits = np.concatenate(list(run_stream(architecture, get_weights(model), chunks)), axis=1)
    with torch.no_grad():
        expected, _ = model.step(torch.from_numpy(frames), model.initial_state(1))
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("architecture", WINDOWED)
@pytest.mark.parametrize("seed", [0, 1])
def test_window_graph_equals_the_model(architecture: str, seed: int) -> None:
    model, frames = model_of(architecture, seed), sound(TASKS[architecture].clip_frames, seed)
    (logits,) = exported(architecture)[2].run(None, {"frames": frames, **get_weights(model)})
    with torch.no_grad():
        np.testing.assert_allclose(logits, model(torch.from_numpy(frames)).numpy(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("architecture", TASKS)
def test_every_weight_counts(architecture: str) -> None:
    """A weight folded into the graph would leave the output as it was."""
    _, graph, session = exported(architecture)
    weights = get_weights(model_of(architecture, 0))
    inputs = {"frames": sound(98, 0)} | {
        name: np.zeros(shape, np.float32) for name, shape in graph.state.items()
    }
    before = session.run(["logits"], {**inputs, **weights})[0]
    for name, value in weights.items():
        changed = value + np.random.default_rng(1).standard_normal(value.shape, np.float32)
        after = session.run(["logits"], {**inputs, **weights, name: changed})[0]
        assert np.abs(after - before).max() > 1e-4, name


@pytest.mark.parametrize("architecture", TASKS)
def test_graph_is_described_and_holds_no_weights(architecture: str) -> None:
    data, graph, session = exported(architecture)
    task, model = TASKS[architecture], model_of(architecture, 0)
    states = list(graph.state)
    assert [i.name for i in session.get_inputs()] == ["frames", *states, *get_weights(model)]
    assert [o.name for o in session.get_outputs()] == ["logits", *(f"{name}.next" for name in states)]
    assert graph.digest == sha256(data)
    assert graph.streaming is model.streaming is (architecture in STREAMING)
    assert graph.receptive_field == (model.receptive_field if graph.streaming else task.clip_frames)
    assert graph.hop == (1 if graph.streaming else 49 if architecture == "cp-mobile" else 10)
    document = onnx.load_from_string(data)
    assert all(np.prod(tensor.dims) < 64 for tensor in document.graph.initializer)
    assert len(data) < 100_000


@pytest.mark.parametrize("architecture", TASKS)
def test_export_tells_nothing_of_the_machine(architecture: str) -> None:
    assert b".py" not in exported(architecture)[0]


@pytest.mark.parametrize("architecture", ["tc-stream", "ds-cnn"])
def test_export_is_repeatable(architecture: str) -> None:
    data, _, _ = exported(architecture)
    assert export_graph(model_of(architecture, 5), TASKS[architecture])[0] == data
