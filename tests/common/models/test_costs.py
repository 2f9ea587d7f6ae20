"""Costs are counted: against numbers worked out by hand from the papers' formulas."""

from __future__ import annotations

import pytest
import torch

from common.audio.front_end import LogMel
from common.errors import TrainingError
from common.models.costs import Costs, costs_of
from common.models.registry import ARCHITECTURES, build_model
from common.models.weights import get_weights
from common.task import Task


def costs(architecture: str, labels: int = 10, **changes: object) -> Costs:
    names = [f"label {number}" for number in range(labels)]
    return costs_of(Task.model_validate({"labels": names, "architecture": architecture, **changes}))


def test_a_frame_of_tc_stream() -> None:
    """Depthwise: channels x 9; pointwise: inputs x outputs; then the mix and the head."""
    depthwise, pointwise = (40 + 4 * 128) * 9, 40 * 128 + 4 * 128 * 128
    found = costs("tc-stream")
    assert found.macs_per_decision == depthwise + pointwise + 128 * 128 + 128 * 10
    assert found.macs_per_second == 100 * found.macs_per_decision


def test_a_window_of_ds_cnn() -> None:
    """98 x 40 frames and bands become 49 x 20 places (kernel 10 x 4, stride 2, borders 4 and 1)."""
    places = 49 * 20
    layers = 64 * 10 * 4 + 4 * (64 * 9 + 64 * 64)
    found = costs("ds-cnn")
    assert found.macs_per_decision == places * layers + 64 * 10
    assert found.macs_per_second == 10 * found.macs_per_decision


def test_a_frame_of_bc_resnet() -> None:
    """40 bands become 20, 20, 10, 5 and 5; channels 16, 8, 12, 16, 20; the last layers see no bands."""
    stem = 20 * 16 * 5 * 5
    first = 20 * 16 * 8 + 2 * (20 * 8 * 3 + 8 * 3 + 8 * 8)
    second = 20 * 8 * 12 + 2 * (10 * 12 * 3 + 12 * 3 + 12 * 12)
    third = 10 * 12 * 16 + 4 * (5 * 16 * 3 + 16 * 3 + 16 * 16)
    fourth = 5 * 16 * 20 + 4 * (5 * 20 * 3 + 20 * 3 + 20 * 20)
    last = 20 * 5 * 5 + 20 * 32 + 32 * 10
    assert costs("bc-resnet-1").macs_per_decision == stem + first + second + third + fourth + last


def test_memory_between_decisions() -> None:
    """tc-stream: 8 frames of 40, 8 and twice 16 and 32 of 128. bc-resnet: four frames of sound, two frames
    times the dilation of each block's channels, four of the last maps. Windows: their features."""
    assert costs("tc-stream").state_bytes == 4 * (8 * 40 + (8 + 16 + 16 + 32) * 128)
    blocks = 2 * 8 * 2 + 2 * 12 * 4 + 4 * 16 * 8 + 4 * 20 * 16
    assert costs("bc-resnet-1").state_bytes == 4 * (4 * 40 + blocks + 20 * 4 * 5)
    assert costs("ds-cnn").state_bytes == 4 * 98 * 40


@pytest.mark.parametrize(
    ("architecture", "field", "hop", "floor"),
    [("tc-stream", 825, 10, 35), ("bc-resnet-2", 1185, 10, 35), ("ds-cnn", 995, 100, 125)],
)
def test_times(architecture: str, field: float, hop: float, floor: float) -> None:
    found = costs(architecture)
    assert found.receptive_field_ms == pytest.approx(field)
    assert found.hop_ms == pytest.approx(hop)
    assert found.latency_floor_ms == pytest.approx(floor)


def test_times_follow_the_front_end() -> None:
    found = costs("tc-stream", front_end=LogMel(window=512, hop=320))
    assert found.hop_ms == 20
    assert found.latency_floor_ms == 52
    assert found.receptive_field_ms == 80 * 20 + 32
    assert found.macs_per_second == 50 * found.macs_per_decision


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_parameters_are_those_of_the_model(architecture: str) -> None:
    task = Task(labels=("a", "b", "c"), architecture=architecture, width=12)
    weights = get_weights(build_model(task, torch.Generator()))
    assert costs_of(task).parameters == sum(value.size for value in weights.values())


@pytest.mark.parametrize("seconds", [0.5, 1, 2, 5, 10, 30])
def test_a_scene_is_named_within_61_thousand_parameters_and_30_million_macs(seconds: float) -> None:
    """However long the window is."""
    found = costs("cp-mobile", clip_seconds=seconds)
    assert found.parameters <= 61_000
    assert found.macs_per_second <= 30e6


@pytest.mark.parametrize("seconds", [0.06, 1, 3.3])
def test_every_frame_is_in_a_window(seconds: float) -> None:
    for architecture in ARCHITECTURES:
        found = costs(architecture, clip_seconds=seconds)
        assert found.streaming or found.hop_ms <= found.window_ms


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"FA-7001.*bc-resnet-3"):
        costs("bc-resnet-5")
