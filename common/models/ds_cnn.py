"""ds-cnn: a depthwise-separable 2-D convolution over a whole window (Zhang et al. 2017, "Hello Edge").

GroupNorm in place of BatchNorm: no statistics cross from clip to clip or from device to device.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from common.models.acoustic import STRIDE, AcousticModel
from common.task import Task

WIDTH = 64
BLOCKS = 4


class DsCnn(AcousticModel):
    """About 23k parameters at width 64. It decides about windows of `task.clip_seconds`."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        width = task.width or WIDTH
        layers = _activated(nn.Conv2d(1, width, (10, 4), stride=2, padding=(4, 1), bias=False), width)
        for _ in range(BLOCKS):
            layers += _activated(nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False), width)
            layers += _activated(nn.Conv2d(width, width, 1, bias=False), width)
        self.layers = nn.Sequential(*layers)
        self.classify = nn.Linear(width, len(task.labels))
        self.receptive_field = task.clip_frames
        self.hop = min(STRIDE, task.clip_frames)

    def forward(self, features: Tensor) -> Tensor:
        maps: Tensor = self.layers(features.unsqueeze(1))
        logits: Tensor = self.classify(maps.mean(dim=(2, 3)))
        return logits


def _activated(convolution: nn.Conv2d, width: int) -> list[nn.Module]:
    return [convolution, nn.GroupNorm(math.gcd(8, width), width), nn.ReLU()]
