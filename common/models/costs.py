"""What a model costs a device: memory, arithmetic, and the delay before it can know."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from common.audio.front_end import SAMPLE_RATE
from common.models.acoustic import AcousticModel, State, StreamingModel
from common.models.registry import architecture_named
from common.protocol.release import Manifest
from common.task import Task

FLOAT_BYTES = 4


@dataclass(frozen=True)
class Costs:
    """Of a model that listens to a stream.

    Args:
        macs_per_decision: multiplications of a weight and a value, in convolutions and linear layers; those
            with the zeros of a border count, norms and activations do not, nor does the front end.
        macs_per_second: the same in one second of sound.
        state_bytes: what is kept from one decision to the next: the state of a streaming model, the features
            of a window for another.
        receptive_field_ms: sound that influences one output, in milliseconds.
        window_ms: sound that one decision is about.
        hop_ms: from one decision to the next.
        latency_floor_ms: after a sound has begun or ended, the longest time until a decision whose newest
            frame lies wholly behind that moment, with a computer that takes no time: a frame is known when
            its last sample is, and the next decision may be one hop away. A microphone's blocks and a
            trigger's smoothing come on top.
    """

    architecture: str
    streaming: bool
    parameters: int
    macs_per_decision: int
    macs_per_second: float
    state_bytes: int
    receptive_field_ms: float
    window_ms: float
    hop_ms: float
    latency_floor_ms: float


def costs_of(task: Task) -> Costs:
    """The costs of the task's model, counted in one pass that computes nothing.

    Raises:
        TrainingError: FA-7001, there is no such architecture.
    """
    model, front_end = _shapes(task), task.front_end
    hop_ms = model.hop * front_end.hop_seconds * 1000
    macs = _macs(model, task)
    window = 0 if model.streaming else task.clip_frames * front_end.features
    kept = window + sum(value.numel() for value in _state(model))
    return Costs(
        architecture=task.architecture,
        streaming=model.streaming,
        parameters=sum(value.numel() for value in model.parameters()),
        macs_per_decision=macs,
        macs_per_second=macs * 1000 / hop_ms,
        state_bytes=FLOAT_BYTES * kept,
        receptive_field_ms=_milliseconds(task, model.receptive_field),
        window_ms=_milliseconds(task, task.clip_frames),
        hop_ms=hop_ms,
        latency_floor_ms=front_end.window / SAMPLE_RATE * 1000 + hop_ms,
    )


def is_shaped(manifest: Manifest) -> bool:
    """Whether a release has the parameters, the state and the hop of its task's model, so that its costs are
    those of `costs_of`.

    Raises:
        TrainingError: FA-7001.
    """
    model, graph = _shapes(manifest.task), manifest.graph
    parameters = {name: tuple(value.shape) for name, value in model.named_parameters()}
    state = [tuple(value.shape) for value in _state(model)]
    return (
        manifest.schema == parameters
        and [tuple(shape) for shape in graph.state.values()] == state
        and (graph.streaming, graph.receptive_field, graph.hop)
        == (model.streaming, model.receptive_field, model.hop)
    )


def _shapes(task: Task) -> AcousticModel:
    """The task's model without values."""
    architecture = architecture_named(task.architecture)
    with torch.device("meta"):
        return architecture(task)


@torch.no_grad()
def _macs(model: AcousticModel, task: Task) -> int:
    """Of one decision, as torch counts them: two operations for each."""
    taken = model.hop if model.streaming else task.clip_frames
    frames = torch.empty(1, taken, task.front_end.features, device="meta")
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        if isinstance(model, StreamingModel):
            model.step(frames, model.initial_state(1))
        else:
            model(frames)
    return int(counter.get_total_flops()) // 2


def _state(model: AcousticModel) -> State:
    return model.initial_state(1) if isinstance(model, StreamingModel) else ()


def _milliseconds(task: Task, frames: int) -> float:
    """Sound in so many frames, which overlap."""
    return ((frames - 1) * task.front_end.hop + task.front_end.window) / SAMPLE_RATE * 1000
