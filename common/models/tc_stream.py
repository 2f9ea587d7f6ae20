"""tc-stream: a causal temporal convolution that gives the same numbers frame by frame as all at once.

Depthwise-separable temporal blocks as in TC-ResNet (Choi et al. 2019) and MatchboxNet (Majumdar and Ginsburg
2020), made causal; state kept outside the model as in streaming keyword spotting (Rybakov et al. 2020).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.models.acoustic import State, StreamingModel
from common.task import Task

WIDTH = 128
KERNEL = 9
DILATIONS = (1, 1, 2, 2, 4)


class Block(nn.Module):
    """Depthwise convolution over past frames, pointwise mix of channels, norm, residual where the widths
    agree.

    The norm looks at the channels of one frame only (Ba et al. 2016): statistics over time would leak the
    future into the past and differ between a stream and a window.
    """

    def __init__(self, inputs: int, outputs: int, dilation: int) -> None:
        super().__init__()
        self.context = (KERNEL - 1) * dilation
        self.dilation = dilation
        self.depthwise = nn.Conv2d(inputs, inputs, (KERNEL, 1), groups=inputs, bias=False)
        self.pointwise = nn.Linear(inputs, outputs, bias=False)
        self.norm = nn.LayerNorm(outputs)
        self.residual = inputs == outputs

    def forward(self, frames: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """Output (B, T, outputs) of `frames` (B, T, inputs) and the last `context` of past and frames."""
        seen = torch.cat((past, frames.transpose(1, 2)), dim=2)
        weight = self.depthwise.weight.squeeze(3)
        over_time = F.conv1d(seen, weight, dilation=self.dilation, groups=len(weight))
        return self._mixed(over_time.transpose(1, 2), frames), seen[..., -self.context :]

    def of_window(self, frames: Tensor) -> Tensor:
        """The same of a whole window (B, T, inputs), before which there was nothing; (B, T, outputs).

        A convolution dilated by d is a plain one of every d-th frame, so frames are laid out as an image d
        wide whose channels lie side by side: the gradient then takes a quarter of the time of `conv1d`.
        """
        windows, length, inputs = frames.shape
        missing = -length % self.dilation
        seen = F.pad(frames, (0, 0, missing + self.context, 0))
        rows = seen.shape[1] // self.dilation
        image = seen.reshape(windows, rows, self.dilation, inputs).permute(0, 3, 1, 2)
        over_time: Tensor = self.depthwise(image).permute(0, 2, 3, 1)
        over_time = over_time.reshape(windows, missing + length, inputs)
        return self._mixed(over_time[:, missing:] if missing else over_time, frames)

    def _mixed(self, over_time: Tensor, frames: Tensor) -> Tensor:
        mixed: Tensor = self.norm(self.pointwise(over_time))
        return (mixed + frames).relu_() if self.residual else mixed.relu()


class TcStream(StreamingModel):
    """Five causal blocks and a pointwise one; about 95k parameters at width 128 and 40 bands.

    Args:
        task: labels, number of features, and the width if it sets one.
    """

    def __init__(self, task: Task) -> None:
        super().__init__()
        width, features = task.width or WIDTH, task.front_end.features
        inputs = (features, *(width for _ in DILATIONS[1:]))
        self.blocks = nn.ModuleList(
            Block(size, width, dilation) for size, dilation in zip(inputs, DILATIONS, strict=True)
        )
        self.mix = nn.Linear(width, width, bias=False)
        self.norm = nn.LayerNorm(width)
        self.classify = nn.Linear(width, len(task.labels))
        self.state_shapes = [
            (size, (KERNEL - 1) * dilation) for size, dilation in zip(inputs, DILATIONS, strict=True)
        ]
        self.receptive_field = 1 + sum(context for _, context in self.state_shapes)

    def initial_state(self, batch: int) -> State:
        weight = self.classify.weight
        return tuple(weight.new_zeros(batch, size, context) for size, context in self.state_shapes)

    def step(self, frames: Tensor, state: State) -> tuple[Tensor, State]:
        following = []
        for block, past in zip(self.blocks, state, strict=True):
            frames, recent = block(frames, past)
            following.append(recent)
        return self._scores(frames), tuple(following)

    def forward(self, features: Tensor) -> Tensor:
        """As `StreamingModel`, in a fraction of the time."""
        frames = features
        for block in cast(Iterable[Block], self.blocks):
            frames = block.of_window(frames)
        return torch.logsumexp(self._scores(frames), dim=1) - math.log(features.shape[1])

    def _scores(self, frames: Tensor) -> Tensor:
        scores: Tensor = self.classify((self.norm(self.mix(frames)) + frames).relu_())
        return scores
