"""What an engine is: every sample's own gradient, as a row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from torch import Tensor, nn

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(logits (B, labels), labels (B,)) -> loss of each (B,)."""


class Engine(Protocol):
    """Per-sample gradients of those parameters of a model that require one."""

    def rows(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients (B, P) and losses (B,) of features (B, T, F) and labels (B,); B may be 0.

        Columns are the trained parameters, flat, in the model's order. The caller may change the rows; they
        are valid until the next call, which may use their memory again.
        """


def trained(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that require a gradient, in the model's order, which is that of a row's columns."""
    return [value for value in model.parameters() if value.requires_grad]
