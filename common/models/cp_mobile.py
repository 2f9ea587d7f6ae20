"""cp-mobile: inverted residual blocks over a whole window, after CP-Mobile (Schmid et al. 2023, "Distilling
the Knowledge of Transformers and CNNs with CP-Mobile"), which names acoustic scenes in 61k parameters.

What differs from the paper: GroupNorm in place of BatchNorm, so that no statistics cross from clip to clip or
from device to device; no response normalisation after a block, whose parameters are of no layer that torch
has, so that private training would be slow; and fewer bands, all of which the second convolution keeps.

A scene lasts, so a window is judged only every half window: a second of sound then costs the same whatever
the length of a window.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from common.models.acoustic import AcousticModel
from common.task import Task

WIDTH = 32
EXPANSION = 2

BLOCKS = (
    (1.0, (1, 1)),
    (1.0, (1, 1)),
    (1.0, (1, 2)),
    (1.75, (2, 1)),
    (1.75, (1, 1)),
    (3.25, (1, 1)),
)
"""Channels in those of the first block, and stride over time and bands."""


class CpMobile(AcousticModel):
    """About 59k parameters at width 32. It decides about windows of `task.clip_seconds`."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        width = task.width or WIDTH
        narrow, channels = max(1, width // 4), width
        layers = [
            *_normed(nn.Conv2d(1, narrow, 3, stride=2, padding=1, bias=False), nn.ReLU()),
            *_normed(nn.Conv2d(narrow, width, 3, stride=(2, 1), padding=1, bias=False), nn.ReLU()),
        ]
        for scale, stride in BLOCKS:
            outputs = int(width * scale)
            layers.append(Block(channels, outputs, stride))
            channels = outputs
        self.layers = nn.Sequential(*layers)
        self.classify = nn.Linear(channels, len(task.labels))
        self.receptive_field = task.clip_frames
        self.hop = max(1, task.clip_frames // 2)

    def forward(self, features: Tensor) -> Tensor:
        maps: Tensor = self.layers(features.unsqueeze(1))
        logits: Tensor = self.classify(maps.mean(dim=(2, 3)))
        return logits


class Block(nn.Module):
    """Pointwise to more channels, depthwise over time and bands, pointwise to few; added to its input where
    the widths agree."""

    def __init__(self, inputs: int, outputs: int, stride: tuple[int, int]) -> None:
        super().__init__()
        inner = EXPANSION * inputs
        over_places = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, groups=inner, bias=False)
        self.layers = nn.Sequential(
            *_normed(nn.Conv2d(inputs, inner, 1, bias=False), nn.ReLU()),
            *_normed(over_places, nn.ReLU()),
            *_normed(nn.Conv2d(inner, outputs, 1, bias=False)),
        )
        self.shortcut: nn.Module | None = None
        if inputs == outputs:
            self.shortcut = nn.Identity() if stride == (1, 1) else nn.AvgPool2d(3, stride, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        out: Tensor = self.layers(maps)
        if self.shortcut is not None:
            out = out + self.shortcut(maps)
        return out.relu()


def _normed(convolution: nn.Conv2d, *activation: nn.Module) -> list[nn.Module]:
    channels = convolution.out_channels
    return [convolution, nn.GroupNorm(math.gcd(8, channels), channels), *activation]
