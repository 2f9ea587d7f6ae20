"""tc-stream goes through whole windows by another way than through a stream: the same numbers come of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from common.audio.front_end import LogMel
from common.models.acoustic import StreamingModel
from common.models.registry import build_model
from common.task import Task

TASK = Task(labels=("a", "b", "c"), front_end=LogMel(bands=12), width=16)


def both_ways(frames: int, windows: int) -> list[list[Tensor]]:
    """Scores and gradients: through the window, and step by step as any streaming model can."""
    model = build_model(TASK, torch.Generator().manual_seed(3)).double()
    assert isinstance(model, StreamingModel)
    features = torch.randn(
        windows, frames, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(4)
    )
    results = []
    for scores in (model(features), StreamingModel.forward(model, features)):
        gradients = torch.autograd.grad(scores.square().sum(), list(model.parameters()))
        results.append([scores.detach(), *gradients])
    return results


@pytest.mark.parametrize("frames", [1, 3, 8, 33, 98, 101])
@pytest.mark.parametrize("windows", [1, 5])
def test_scores_and_gradients_are_those_of_a_stream(frames: int, windows: int) -> None:
    whole, stream = both_ways(frames, windows)
    for value, expected in zip(whole, stream, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-11)


def test_no_windows_have_no_scores() -> None:
    model = build_model(TASK, torch.Generator())
    assert model(torch.zeros(0, 98, 12)).shape == (0, 3)


def test_what_goes_in_stays_as_it_is() -> None:
    """Some of the work is done in place."""
    model, features = build_model(TASK, torch.Generator()), torch.randn(2, 98, 12)
    before = features.clone()
    model(features)
    assert torch.equal(features, before)
