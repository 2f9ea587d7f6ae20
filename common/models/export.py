"""A model as an ONNX graph that a listener runs without torch.

The weights are inputs of the graph, not part of it: one graph serves every version, and a new version is a
rebind.
"""

from __future__ import annotations

import logging
import warnings
from typing import cast

import onnx
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.func import functional_call

from common.files import sha256
from common.models.acoustic import AcousticModel, State, StreamingModel
from common.protocol.release import Graph
from common.task import Task

FRAMES, LOGITS = "frames", "logits"
TRACED_FRAMES = 7
"""Frames in the traced example of a streaming graph; any number but one, which the tracer would take for a
constant."""


def export_graph(model: AcousticModel, task: Task) -> tuple[bytes, Graph]:
    """The model's graph and how to run it.

    Inputs: "frames" (1, T, features), then "state.0", "state.1", ..., then every parameter under its own
    name.
    Outputs: "logits", then "state.0.next", ... With a streaming model T is any number from 1 and the logits
    are (1, T, labels); otherwise T is `task.clip_frames`, there is no state and the logits are (1, labels).
    """
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    state = model.initial_state(1) if isinstance(model, StreamingModel) else ()
    frames = torch.zeros(1, TRACED_FRAMES if model.streaming else task.clip_frames, task.front_end.features)
    names = [f"state.{i}" for i in range(len(state))]
    time = {1: Dim.DYNAMIC} if model.streaming else None
    program = _trace(
        _Stateless(model, tuple(parameters)),
        (frames, state, tuple(parameters.values())),
        [FRAMES, *names, *parameters],
        [LOGITS, *(f"{name}.next" for name in names)],
        (time, (None,) * len(state), (None,) * len(parameters)),
    )
    data = _without_traces(program)
    shapes = {name: tuple(value.shape) for name, value in zip(names, state, strict=True)}
    return data, Graph(
        streaming=model.streaming,
        digest=sha256(data),
        state=shapes,
        receptive_field=model.receptive_field,
        hop=model.hop,
    )


class _Stateless(nn.Module):
    """A model as a function of frames, state and parameters."""

    def __init__(self, model: AcousticModel, names: tuple[str, ...]) -> None:
        super().__init__()
        self._answer = [_Answer(model)]  # in a list it is no submodule, so its weights are not baked in
        self._names = [f"model.{name}" for name in names]

    def forward(self, frames: Tensor, state: State, parameters: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        weights = dict(zip(self._names, parameters, strict=True))
        answer: tuple[Tensor, ...] = functional_call(self._answer[0], weights, (frames, state))
        return answer


class _Answer(nn.Module):
    """Logits and the next state as `forward`, because `functional_call` calls nothing else."""

    def __init__(self, model: AcousticModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor, state: State) -> tuple[Tensor, ...]:
        if isinstance(self.model, StreamingModel):
            logits, following = self.model.step(frames, state)
            return logits, *following
        return (self.model(frames),)


def _trace(
    module: nn.Module,
    example: tuple[object, ...],
    inputs: list[str],
    outputs: list[str],
    dynamic: tuple[object, ...],
) -> onnx.ModelProto:
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Without optimize=False the exporter folds and renames parameters.
            program = torch.onnx.export(
                module.eval(),
                example,
                input_names=inputs,
                output_names=outputs,
                dynamic_shapes=dynamic,
                dynamo=True,
                optimize=False,
                verbose=False,
            )
    finally:
        logger.setLevel(level)
    return cast(torch.onnx.ONNXProgram, program).model_proto


def _without_traces(model: onnx.ModelProto) -> bytes:
    """The graph's bytes without stack traces, which name files of the machine that traced it."""
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    data: bytes = model.SerializeToString(deterministic=True)
    return data
