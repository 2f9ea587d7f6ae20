"""Small models around each kind of layer, with batches for them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.models.registry import build_model
from common.task import Task


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none")


class Around(nn.Module):
    """`layer` between a change of features (B, T, F) into what it takes and a linear layer into 3 logits."""

    def __init__(
        self, layer: nn.Module, example: Callable[[Tensor], Tensor], frames: int = 8, features: int = 6
    ) -> None:
        super().__init__()
        self.layer, self.example = layer, example
        with torch.no_grad():
            size = layer(example(torch.zeros(1, frames, features))).numel()
        self.classify = nn.Linear(size, 3)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.classify(self.layer(self.example(features)).flatten(1).tanh())
        return logits


def channels(features: Tensor) -> Tensor:
    """(B, 6, 8): the features are channels."""
    return features.transpose(1, 2)


def image(features: Tensor) -> Tensor:
    """(B, 6, 4, 2), contiguous."""
    return features.transpose(1, 2).reshape(len(features), 6, 4, 2).contiguous()


def image_channels_last(features: Tensor) -> Tensor:
    """(B, 6, 4, 2), channels side by side."""
    return features.reshape(len(features), 4, 2, 6).permute(0, 3, 1, 2)


def as_is(features: Tensor) -> Tensor:
    return features


def codes(features: Tensor) -> Tensor:
    """(B, 8, 6) whole numbers of 0..4."""
    return (features.abs() * 3).long().clamp(max=4)


def made_layers() -> dict[str, nn.Module]:
    """Every kind of layer with a rule of its own, by a name for it."""
    torch.manual_seed(5)
    layers: dict[str, nn.Module] = {
        "linear of frames": Around(nn.Linear(6, 4), as_is),
        "linear of vectors": nn.Sequential(nn.Flatten(), nn.Linear(48, 3)),
        "linear over two dimensions": Around(nn.Linear(2, 3), image),
        "linear without bias": Around(nn.Linear(6, 4, bias=False), as_is),
        "conv1d": Around(nn.Conv1d(6, 4, 3), channels),
        "conv1d dilated, strided, padded": Around(
            nn.Conv1d(6, 4, 3, stride=2, padding=3, dilation=2), channels
        ),
        "conv1d depthwise": Around(nn.Conv1d(6, 6, 3, groups=6, bias=False), channels),
        "conv1d pointwise": Around(nn.Conv1d(6, 4, 1), channels),
        "conv1d grouped": Around(nn.Conv1d(6, 4, 3, groups=2), channels),
        "conv1d padded to the same": Around(nn.Conv1d(6, 4, 4, padding="same"), channels),
        "conv1d valid": Around(nn.Conv1d(6, 4, 3, padding="valid"), channels),
        "group norm": Around(nn.GroupNorm(3, 6), image),
        "group norm of channels": Around(nn.GroupNorm(2, 6), channels),
        "layer norm of frames": Around(nn.LayerNorm(6), as_is),
        "layer norm of windows": Around(nn.LayerNorm((8, 6)), as_is),
        "embedding": Around(nn.Embedding(5, 4), codes),
        "embedding with padding": Around(nn.Embedding(5, 4, padding_idx=1), codes),
        "prelu": Around(nn.PReLU(), channels),
        "prelu of channels": Around(nn.PReLU(6), image),
        "channel norm": Around(nn.LayerNorm(6, bias=False), as_is),
    }
    for name, layout in (("", image), (", channels last", image_channels_last)):
        layers |= {
            f"conv2d{name}": Around(nn.Conv2d(6, 4, (3, 2)), layout),
            f"conv2d strided{name}": Around(nn.Conv2d(6, 4, 2, stride=(2, 1), padding=(1, 0)), layout),
            f"conv2d dilated{name}": Around(nn.Conv2d(6, 4, (2, 1), dilation=(2, 1), bias=False), layout),
            f"conv2d depthwise{name}": Around(nn.Conv2d(6, 6, (3, 1), groups=6, bias=False), layout),
            f"conv2d two per channel{name}": Around(nn.Conv2d(6, 12, 2, groups=6, padding=1), layout),
            f"conv2d pointwise{name}": Around(nn.Conv2d(6, 4, 1), layout),
            f"conv2d pointwise, strided{name}": Around(nn.Conv2d(6, 4, 1, stride=2), layout),
            f"conv2d grouped{name}": Around(nn.Conv2d(6, 4, 2, groups=2), layout),
        }
    return layers


def made_batch(count: int, frames: int = 8, features: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(count, frames, features, generator=generator), torch.arange(count) % 3


def architecture(name: str) -> tuple[nn.Module, Task]:
    task = Task(labels=("a", "b", "c"), architecture=name, width=16)
    return build_model(task, torch.Generator().manual_seed(3)), task
