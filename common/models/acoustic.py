"""What every model is: features in, logits out; a streaming one can also go step by step."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from common.protocol.algorithms import Trained

State: TypeAlias = tuple[Tensor, ...]
"""What a streaming model remembers of the frames it has seen; the first dimension of each tensor is B."""

STRIDE = 10
"""Frames from one window to the next that most window models are evaluated for."""

HEAD = "classify."
"""What the names of the head's parameters begin with, in every architecture: the layer that gives logits."""

Kept = TypeVar("Kept")


def trained_part(trained: Trained, tensors: Mapping[str, Kept]) -> dict[str, Kept]:
    """Of what is given by parameters' names, that of the parameters a recipe trains (`Recipe.trained`)."""
    return {name: value for name, value in tensors.items() if trained == "all" or name.startswith(HEAD)}


def without_head(tensors: Mapping[str, Kept]) -> dict[str, Kept]:
    """Of what is given by parameters' names, that of the body: all but the head."""
    return {name: value for name, value in tensors.items() if not name.startswith(HEAD)}


class AcousticModel(nn.Module):
    """A model that names what is heard in a window of features.

    Attributes:
        receptive_field: frames that influence one output.
        hop: frames from one decision to the next; 1 if streaming, at most `receptive_field`.
        streaming: whether the model is a `StreamingModel`.
    """

    receptive_field: int
    hop: int
    streaming = False

    @abstractmethod
    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, labels) of windows of features (B, T, F)."""


class StreamingModel(AcousticModel):
    """A causal model: frame logits depend on present and past frames only.

    The logits of a window are the log-mean-exp over time of its frame logits: a word counts where it is, the
    silence around it does not.
    """

    streaming = True
    hop = 1

    @abstractmethod
    def step(self, frames: Tensor, state: State) -> tuple[Tensor, State]:
        """Frame logits (B, T, labels) of the next frames (B, T, F), T >= 1, and the state after them."""

    @abstractmethod
    def initial_state(self, batch: int) -> State:
        """The state before the first frame: zeros."""

    def forward(self, features: Tensor) -> Tensor:
        """As `AcousticModel`, from the initial state."""
        logits, _ = self.step(features, self.initial_state(features.shape[0]))
        return torch.logsumexp(logits, dim=1) - math.log(features.shape[1])
