"""The average of a training's weights over its last steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class WeightAverage:
    """An exponential moving average of the weights (Polyak and Juditsky 1992), which evens out the noise of
    private steps (De et al. 2022, section 3.4). It is made of weights that are public already and costs no
    privacy.

    Early in a training it remembers less, (1 + t) / (10 + t) after t steps, so that the weights it began with
    do not stay in it.

    Args:
        decay: what it remembers of itself at each step, in [0, 1); at 0 there is no average.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self._parameters = list(parameters) if decay else []
        self._decay, self._steps = decay, 0
        self._average = [value.detach().clone() for value in self._parameters]

    @torch.no_grad()
    def add(self) -> None:
        """Take in the weights as they are now."""
        self._steps += 1
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        for average, value in zip(self._average, self._parameters, strict=True):
            average.lerp_(value, 1 - decay)

    @torch.no_grad()
    def use(self) -> None:
        """Put the average in the place of the weights."""
        for average, value in zip(self._average, self._parameters, strict=True):
            value.copy_(average)
