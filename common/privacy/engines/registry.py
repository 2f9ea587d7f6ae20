"""Engines by name, which agree to the rounding, and the models that none of them can work on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from common.errors import TrainingError
from common.privacy.engines.engine import Engine, Loss
from common.privacy.engines.functorch import FunctorchEngine
from common.privacy.engines.fused import FusedEngine
from common.privacy.engines.opacus import OpacusEngine
from common.protocol.plan import EngineName


class _Makes(Protocol):
    def __call__(self, model: nn.Module, loss: Loss) -> Engine: ...


ENGINES: Mapping[EngineName, _Makes] = {
    "fused": FusedEngine,
    "functorch": FunctorchEngine,
    "opacus": OpacusEngine,
}


def engine_for(name: EngineName, model: nn.Module, loss: Loss, frames: int, features: int) -> Engine:
    """The engine `name` for `model`, of windows (frames, features).

    Raises:
        TrainingError: FA-7020, the model cannot learn from one sample apart from the others.
    """
    _refuse_mixing_layers(model)
    engine = ENGINES[name](model, loss)
    checked, part = (
        _CHECKED.setdefault(model, set()),
        tuple(value.requires_grad for value in model.parameters()),
    )
    if part not in checked:
        _refuse_mixing(engine, frames, features)
        checked.add(part)
    return engine


_ONLY_WHOLE_BATCHES = (nn.RNN, nn.GRU)
_CHECKED: WeakKeyDictionary[nn.Module, set[tuple[bool, ...]]] = WeakKeyDictionary()
"""Models found to keep samples apart, with the parameters that were trained; to find out takes as long as to
train on four windows. It is the architecture that is tried, not the weights."""


def _refuse_mixing_layers(model: nn.Module) -> None:
    for name, module in model.named_modules():
        kind = type(module).__name__
        if isinstance(module, _BatchNorm) or (
            isinstance(module, _InstanceNorm) and module.track_running_stats
        ):
            raise _refusal(
                f"The layer '{name}' ({kind}) mixes clips, so that none has a gradient of its own.",
                "Use nn.GroupNorm or nn.LayerNorm in its place.",
            )
        if isinstance(module, _ONLY_WHOLE_BATCHES):
            raise _refusal(
                f"The layer '{name}' ({kind}) has no gradient of a single clip in torch.",
                "Use nn.LSTM, or a convolution, in its place.",
            )


@torch.no_grad()
def _refuse_mixing(engine: Engine, frames: int, features: int) -> None:
    """A sample must have the same gradient in company as alone, whatever a model does between its layers.

    The engine sees batches of two sizes by that, which `FusedEngine` relies on.
    """
    probe = torch.randn(3, frames, features, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(3, dtype=torch.int64)
    rows = []
    with torch.random.fork_rng(devices=[]):
        for samples in (1, 3):
            torch.manual_seed(0)
            rows.append(engine.rows(probe[:samples], labels[:samples])[0][0].clone())
    alone, together = rows
    if not torch.linalg.vector_norm(together - alone) <= 1e-3 * torch.linalg.vector_norm(alone):
        raise _refusal(
            "A clip's gradient depends on the other clips of its batch.",
            "Let no operation of the model look at more than one clip.",
        )


def _refusal(happened: str, remedy: str) -> TrainingError:
    return TrainingError("FA-7020", happened, remedy)
