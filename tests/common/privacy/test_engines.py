"""Every sample's own gradient is what it is alone, whichever engine finds it."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import TrainingError
from common.models.registry import ARCHITECTURES
from common.privacy.engines.functorch import FunctorchEngine
from common.privacy.engines.fused import FusedEngine
from common.privacy.engines.opacus import OpacusEngine
from common.privacy.engines.registry import ENGINES, engine_for
from common.protocol.plan import EngineName
from tests.common.privacy.made_models import (
    Around,
    architecture,
    channels,
    image,
    loss,
    made_batch,
    made_layers,
)

LAYERS = made_layers()
BEYOND_OPACUS = {"embedding with padding", "channel norm"}
"""Opacus 1.6 gives padding a gradient, which torch does not, and cannot take a norm without a bias."""


def close(mine: Tensor, others: Tensor) -> None:
    torch.testing.assert_close(
        mine, others, atol=1e-5 * float(torch.cat([others.abs().flatten(), torch.zeros(1)]).amax()), rtol=1e-5
    )


@pytest.mark.parametrize("count", [0, 1, 2, 5])
@pytest.mark.parametrize("name", LAYERS)
def test_rows_of_each_layer_are_those_of_opacus(
    name: str, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    features, labels = made_batch(count)
    with caplog.at_level(logging.INFO):
        mine, losses = FusedEngine(LAYERS[name], loss).rows(features, labels)
    assert not caplog.messages  # a rule of its own, no torch.func
    reference = FunctorchEngine if name in BEYOND_OPACUS else OpacusEngine
    others, other_losses = reference(LAYERS[name], loss).rows(features, labels)
    assert mine.shape == (count, sum(value.numel() for value in LAYERS[name].parameters()))
    close(mine, others)
    close(losses, other_losses)


@pytest.mark.parametrize("count", [0, 1, 7])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_rows_of_whole_models_are_the_same_of_all_engines(name: str, count: int) -> None:
    model, task = architecture(name)
    features, labels = made_batch(count, task.clip_frames, task.front_end.features)
    by_engine = [engine(model, loss).rows(features, labels)[0].clone() for engine in ENGINES.values()]
    for rows in by_engine:
        assert rows.shape[0] == count
        close(rows, by_engine[0])
    if count:
        model.zero_grad()
        F.cross_entropy(model(features), labels, reduction="sum").backward()  # type: ignore[no-untyped-call]
        summed = torch.cat([value.grad.flatten() for value in model.parameters() if value.grad is not None])
        torch.testing.assert_close(by_engine[0].sum(0), summed, atol=1e-4, rtol=1e-4)


class Twice(nn.Module):
    """One layer used twice, one whose weight another shares, one that is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.unused, self.outer = nn.Linear(6, 6), nn.Linear(2, 2), nn.Linear(6, 6)
        self.outer.weight = self.inner.weight
        self.classify = nn.Linear(6, 3)

    def forward(self, features: Tensor) -> Tensor:
        hidden = self.inner(self.inner(features).tanh()).tanh()
        logits: Tensor = self.classify(self.outer(hidden).mean(1))
        return logits


def test_a_layer_that_is_used_more_than_once_has_the_sum() -> None:
    model, (features, labels) = Twice(), made_batch(5)
    engine = FusedEngine(model, loss)
    for _ in range(2):  # the second time the buffer is full of the first
        mine, _ = engine.rows(features, labels)
        close(mine, FunctorchEngine(model, loss).rows(features, labels)[0])


class Bare(nn.Module):
    """A parameter that no layer has, beside one that a layer has."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.classify = nn.Parameter(torch.ones(6)), nn.Linear(6, 3)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.classify((features * self.scale).mean(1))
        return logits


@pytest.mark.parametrize(
    "model",
    [
        Bare(),
        Around(nn.Conv3d(1, 2, 2), lambda features: features.view(-1, 1, 4, 2, 6)),
    ],
    ids=["a bare parameter", "conv3d"],
)
def test_what_has_no_rule_goes_to_torch_func_and_says_so(
    model: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    features, labels = made_batch(3)
    with caplog.at_level(logging.INFO):
        mine, _ = FusedEngine(model, loss).rows(features, labels)
    assert "torch.func" in caplog.text
    close(mine, FunctorchEngine(model, loss).rows(features, labels)[0])


@pytest.mark.parametrize("engine", ENGINES)
def test_frozen_parameters_have_no_columns(engine: EngineName) -> None:
    model, task = architecture("tc-stream")
    features, labels = made_batch(4, task.clip_frames, task.front_end.features)
    whole = ENGINES[engine](model, loss).rows(features, labels)[0].clone()
    for name, value in model.named_parameters():
        value.requires_grad_(name.startswith("classify."))
    head = ENGINES[engine](model, loss).rows(features, labels)[0]
    assert head.shape == (4, 16 * 3 + 3)
    close(head, whole[:, -head.shape[1] :])


@pytest.mark.parametrize("engine", ENGINES)
def test_the_model_is_as_it_was(engine: EngineName) -> None:
    model, task = architecture("ds-cnn")
    features, labels = made_batch(4, task.clip_frames, task.front_end.features)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    outputs, attributes = model(features), [set(vars(module)) for module in model.modules()]
    ENGINES[engine](model, loss).rows(features, labels)
    assert [set(vars(module)) for module in model.modules()] == attributes
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())
    assert all(value.grad is None and not hasattr(value, "grad_sample") for value in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(model(features), outputs)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("layer", "layout"),
    [
        (nn.BatchNorm1d(6), channels),
        (nn.BatchNorm1d(6, track_running_stats=False), channels),
        (nn.BatchNorm2d(6), image),
        (nn.SyncBatchNorm(6), image),
        (nn.InstanceNorm1d(6, affine=True, track_running_stats=True), channels),
    ],
)
def test_layers_that_mix_samples_are_refused_by_name(
    engine: EngineName, layer: nn.Module, layout: Callable[[Tensor], Tensor]
) -> None:
    model = Around(layer.eval(), layout).train()
    with pytest.raises(TrainingError, match=rf"FA-7020.*'layer' \({type(layer).__name__}\).*nn.GroupNorm"):
        engine_for(engine, model, loss, 8, 6)


@pytest.mark.parametrize("layer", [nn.GRU(6, 4), nn.RNN(6, 4)])
def test_layers_without_a_gradient_of_one_sample_are_refused(layer: nn.Module) -> None:
    model = nn.Sequential(layer)
    with pytest.raises(TrainingError, match=r"FA-7020.*nn\.LSTM"):
        engine_for("fused", model, loss, 8, 6)


class Lstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.classify = nn.LSTM(6, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.classify(self.lstm(features)[0][:, -1])
        return logits


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_an_lstm_learns_by_torch_func() -> None:
    model, (features, labels) = Lstm(), made_batch(3)
    rows, _ = engine_for("fused", model, loss, 8, 6).rows(features, labels)
    for sample, row in enumerate(rows.clone()):
        model.zero_grad()
        loss(model(features[[sample]]), labels[[sample]]).sum().backward()  # type: ignore[no-untyped-call]
        alone = torch.cat([value.grad.flatten() for value in model.parameters() if value.grad is not None])
        close(row, alone)


class Centred(nn.Module):
    """Mixes samples, with no layer that could be named."""

    def __init__(self) -> None:
        super().__init__()
        self.classify = nn.Linear(6, 3)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.classify((features - features.mean(0)).mean(1))
        return logits


def test_a_model_that_mixes_samples_anywhere_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"FA-7020.*depends on the other clips"):
        engine_for("fused", Centred(), loss, 8, 6)


class TimeFirst(nn.Module):
    """Frames are the first dimension where its layer is."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.classify = nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.classify(self.layer(features.transpose(0, 1)).tanh().mean(0))
        return logits


@pytest.mark.parametrize("frames", [1, 3, 8])
def test_a_first_dimension_that_is_not_the_samples_is_never_taken_for_them(frames: int) -> None:
    """Though a batch may have as many samples as there are frames."""
    model, (features, labels) = TimeFirst(), made_batch(frames, frames)
    rows, _ = engine_for("fused", model, loss, frames, 6).rows(features, labels)
    close(rows, FunctorchEngine(model, loss).rows(features, labels)[0])


def test_opacus_refuses_what_it_cannot_do() -> None:
    with pytest.raises(TrainingError, match=r"FA-7020.*Opacus"):
        OpacusEngine(Lstm(), loss)
