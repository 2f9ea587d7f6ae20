"""tc-window: tc-stream's blocks over a whole window, then a linear layer that whitens, then the head.

It is made for a head that is trained alone and under differential privacy, on a body that has learned from
other sounds. Noise on a logit is as large as the embedding it is made from is long, and a clip's gradient is
shortened to the clipping norm however long it was. So a window has one short embedding, centred and whitened
by how sounds of one kind differ (Fisher 1936): directions that tell nothing take no room in it. A head on
every frame, as tc-stream has, learns 4 points less on Arabic words at epsilon 8.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from common.models.acoustic import STRIDE, AcousticModel
from common.models.tc_stream import DILATIONS, WIDTH, Block
from common.task import Task

SHRINKAGE = 0.5
"""Added to every variance, in mean variances: sounds never heard differ in other directions too."""


class TcWindow(AcousticModel):
    """About 111k parameters at width 128 and 40 bands. It decides about windows of `task.clip_seconds`."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        width = task.width or WIDTH
        inputs = (task.front_end.features, *(width for _ in DILATIONS[1:]))
        self.blocks = nn.ModuleList(
            Block(size, width, dilation) for size, dilation in zip(inputs, DILATIONS, strict=True)
        )
        self.mix = nn.Linear(width, width, bias=False)
        self.norm = nn.LayerNorm(width)
        self.whiten = nn.Linear(width, width)
        self.classify = nn.Linear(width, len(task.labels))
        self.receptive_field = task.clip_frames
        self.hop = min(STRIDE, task.clip_frames)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.classify(self.whiten(self.pooled(features)))
        return logits

    def pooled(self, features: Tensor) -> Tensor:
        """What the blocks make of windows (B, T, F), mean over time: (B, width)."""
        frames = features
        for block in cast(Iterable[Block], self.blocks):
            frames = block.of_window(frames)
        hidden = (self.norm(self.mix(frames)) + frames).relu_()
        mean: Tensor = hidden.mean(dim=1)
        return mean

    @torch.no_grad()
    def whiten_by(self, pooled: Tensor, kinds: Tensor) -> None:
        """Make embeddings of mean zero and, among sounds of one kind, of covariance one.

        Args:
            pooled: of many windows, (N, width).
            kinds: of each, from 0, (N,) int64.
        """
        values = pooled.double()
        counts = torch.bincount(kinds).clamp(min=1)
        sums = values.new_zeros(len(counts), values.shape[1]).index_add_(0, kinds, values)
        within = values - (sums / counts[:, None])[kinds]
        variances, axes = torch.linalg.eigh(within.T @ within / len(within))
        variances = variances.clamp(min=0) + SHRINKAGE * variances.mean() + 1e-12
        matrix = axes * variances.rsqrt() @ axes.T
        self.whiten.weight.copy_(matrix)
        self.whiten.bias.copy_(-matrix @ values.mean(dim=0))
