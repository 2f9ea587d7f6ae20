"""Architectures by name."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import nn

from common.errors import TrainingError
from common.models.acoustic import AcousticModel
from common.models.bc_resnet import BcResNet
from common.models.cp_mobile import CpMobile
from common.models.ds_cnn import DsCnn
from common.models.tc_stream import TcStream
from common.models.tc_window import TcWindow
from common.task import Task

ARCHITECTURES: Mapping[str, Callable[[Task], AcousticModel]] = {
    "tc-stream": TcStream,
    "tc-window": TcWindow,
    "ds-cnn": DsCnn,
    "bc-resnet-1": partial(BcResNet, tau=1),
    "bc-resnet-2": partial(BcResNet, tau=2),
    "bc-resnet-3": partial(BcResNet, tau=3),
    "cp-mobile": CpMobile,
}


def architecture_named(name: str) -> Callable[[Task], AcousticModel]:
    """What makes a model of this architecture.

    Raises:
        TrainingError: FA-7001, there is none of this name.
    """
    if name not in ARCHITECTURES:
        near = difflib.get_close_matches(name, ARCHITECTURES, n=1, cutoff=0.0)[0]
        raise TrainingError("FA-7001", f"There is no architecture '{name}'.", f"Did you mean '{near}'?")
    return ARCHITECTURES[name]


def build_model(task: Task, generator: torch.Generator) -> AcousticModel:
    """A fresh model for `task`; the same generator state gives the same weights.

    Raises:
        TrainingError: FA-7001, there is no such architecture.
    """
    architecture = architecture_named(task.architecture)
    # On the meta device nothing is drawn from torch's global generator, which is not ours to advance.
    with torch.device("meta"):
        model = architecture(task)
    model.to_empty(device="cpu")
    for module in model.modules():
        _initialise(module, generator)
    return model


@torch.no_grad()
def _initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Weights uniform within 1/sqrt(fan-in) (LeCun et al. 1998), biases zero, norms the identity."""
    match module:
        case nn.Conv1d() | nn.Conv2d() | nn.Linear():
            bound = 1 / math.sqrt(module.weight[0].numel())
            module.weight.uniform_(-bound, bound, generator=generator)
            if module.bias is not None:
                module.bias.zero_()
        case nn.LayerNorm() | nn.GroupNorm():
            module.weight.fill_(1.0)
            module.bias.zero_()
