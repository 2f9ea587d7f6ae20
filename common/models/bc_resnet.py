"""bc-resnet: broadcasted residual learning (Kim et al. 2021, "Broadcasted Residual Learning for Efficient
Keyword Spotting"), made causal.

A block mixes bands in two dimensions and time in one: the bands are averaged, what comes of that over time is
added to every band. So a stream need remember one value of each channel and past frame, not one of each band.

What differs from the paper:

- Convolutions over time look back only, and a window's logits are the log-mean-exp of its frames' logits, as
  of any `StreamingModel`, in place of a mean over time before the last layer.
- Norms are of one frame, over channels and bands (Ba et al. 2016), where the paper has BatchNorm and
  SubSpectralNorm: no statistics cross from clip to clip or from the future to the past. SubSpectralNorm lets
  the model tell bands apart by scales and shifts of five groups of bands; here every band has its own, which
  costs a few thousand parameters.
- What a block adds to is not rectified: a block rectifies what it reads. A norm of one frame, unlike one over
  a batch, does not take out of each channel what all frames have in common. Under a ReLU on the sum that part
  grows with every block and covers what sounds differ in, and training hardly begins.
- There is no dropout, so that a training is repeated to the bit.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.models.acoustic import State, StreamingModel
from common.task import Task

CHANNELS = 8
"""Of the first stage, times tau."""

STAGES = ((1.0, 2, 1, 1), (1.5, 2, 2, 2), (2.0, 4, 2, 4), (2.5, 4, 1, 8))
"""Channels in those of the first stage, blocks, stride over bands of the first block, dilation over time."""

OVER_TIME, EDGE = 3, 5
"""Kernels over time: of a block, and of the first and the last convolution."""

GAIN = 3.0
"""Of what the last layer reads: sounds hardly differ in it at first, and training would begin slowly."""


class BcResNet(StreamingModel):
    """A causal BC-ResNet of the width that `task` sets: channels of the first stage, else 8 tau.

    Args:
        tau: how much wider than the smallest of the paper.
    """

    def __init__(self, task: Task, tau: int) -> None:
        super().__init__()
        base, features = task.width or CHANNELS * tau, task.front_end.features
        channels, bands = 2 * base, _halved(features)
        self.stem = nn.Conv2d(1, channels, EDGE, stride=(1, 2), padding=(0, EDGE // 2), bias=False)
        self.stem_norm = FrameNorm(channels, bands)
        blocks = []
        for scale, count, stride, dilation in STAGES:
            width = int(base * scale)
            blocks.append(Block(channels, width, bands, stride, dilation))
            channels, bands = width, blocks[-1].bands
            blocks += [Block(channels, channels, bands, 1, dilation) for _ in range(count - 1)]
        self.blocks = nn.ModuleList(blocks)
        self.gather = nn.Conv2d(channels, channels, (EDGE, bands), groups=channels, bias=False)
        self.widen = nn.Linear(channels, 4 * base, bias=False)
        self.widen_norm = nn.LayerNorm(4 * base)
        self.classify = nn.Linear(4 * base, len(task.labels))
        contexts = [(block.channels, block.context) for block in blocks]
        self.state_shapes = [(EDGE - 1, features), *contexts, (channels, EDGE - 1, bands)]
        self.receptive_field = 1 + 2 * (EDGE - 1) + sum(context for _, context in contexts)

    def initial_state(self, batch: int) -> State:
        weight = self.classify.weight
        return tuple(weight.new_zeros(batch, *shape) for shape in self.state_shapes)

    def step(self, frames: Tensor, state: State) -> tuple[Tensor, State]:
        heard, *pasts, last = state
        seen = torch.cat((heard, frames), dim=1)
        maps = F.relu(self.stem_norm(self.stem(seen.unsqueeze(1))))
        following = [seen[:, 1 - EDGE :]]
        for block, past in zip(cast(Iterable[Block], self.blocks), pasts, strict=True):
            maps, recent = block(maps, past)
            following.append(recent)
        maps = torch.cat((last, maps), dim=2)
        following.append(maps[:, :, 1 - EDGE :])
        gathered = self.gather(maps).squeeze(3).transpose(1, 2)
        logits: Tensor = self.classify(GAIN * F.relu(self.widen_norm(self.widen(gathered))))
        return logits, tuple(following)


class Block(nn.Module):
    """x + y + g(mean of y over bands) with y = f(relu(x)): f over bands, g over time.

    Where the width or the number of bands changes, there is a pointwise convolution first and no x.
    """

    def __init__(self, inputs: int, channels: int, bands: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.channels, self.bands = channels, bands if stride == 1 else _halved(bands)
        self.context, self.dilation = (OVER_TIME - 1) * dilation, dilation
        self.enter = None
        if inputs != channels or stride != 1:
            self.enter = nn.Sequential(
                nn.Conv2d(inputs, channels, 1, bias=False), FrameNorm(channels, bands), nn.ReLU()
            )
        self.over_bands = nn.Conv2d(
            channels, channels, (1, 3), stride=(1, stride), padding=(0, 1), groups=channels, bias=False
        )
        self.bands_norm = FrameNorm(channels, self.bands)
        self.over_time = nn.Conv1d(
            channels, channels, OVER_TIME, dilation=dilation, groups=channels, bias=False
        )
        self.time_norm = nn.LayerNorm(channels)
        self.mix = nn.Linear(channels, channels, bias=False)

    def forward(self, maps: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (B, channels, T, bands) of the next (B, inputs, T, bands), and the last `context` of past
        (B, channels, context) and of the means over bands."""
        entered = F.relu(maps) if self.enter is None else self.enter(maps)
        by_band = self.bands_norm(self.over_bands(entered))
        seen = torch.cat((past, by_band.mean(dim=3)), dim=2)
        over_time = self.time_norm(self.over_time(seen).transpose(1, 2))
        mixed = self.mix(F.silu(over_time)).transpose(1, 2)
        both = by_band + mixed.unsqueeze(3)
        return both if self.enter is not None else both + maps, seen[..., -self.context :]


class FrameNorm(nn.LayerNorm):
    """Norm of maps (B, channels, T, bands) over the channels and bands of each frame by itself.

    Its output has the channels of a place side by side, which makes a training take two thirds of the time.
    """

    def __init__(self, channels: int, bands: int) -> None:
        super().__init__((bands, channels))

    def forward(self, maps: Tensor) -> Tensor:
        return super().forward(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _halved(bands: int) -> int:
    """Bands after a convolution of stride two that pads by half its kernel."""
    return (bands + 1) // 2
