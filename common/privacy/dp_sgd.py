"""The three moves of DP-SGD (Abadi et al. 2016): sample, clip, add noise.

The unit of privacy is one clip: a clip enters a step with at most one of its windows, so adding or removing
it changes the sum of clipped gradients by at most the clipping norm. Two clips of one speaker are two units.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from common.privacy.secure_random import SecureRandom

Gradient: TypeAlias = dict[str, Tensor]
"""One tensor for each parameter that requires a gradient, by name."""

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(logits (B, labels), labels (B,)) -> loss of each (B,)."""


def poisson_sample(clips: int, rate: float, random: SecureRandom) -> npt.NDArray[np.int64]:
    """Each of 0..clips-1 with probability `rate`, independently, as the accountant assumes; perhaps none."""
    return np.flatnonzero(random.uniform(clips) < rate)


def clipped_sum(
    model: nn.Module, features: Tensor, labels: Tensor, loss: Loss, clipping_norm: float
) -> tuple[Gradient, float]:
    """Sum over the samples (B, T, F) of each one's gradient, scaled down to `clipping_norm`, and of their
    losses.

    The norm is over all parameters together that require a gradient; the others get none. A gradient that is
    not finite counts as zero: to stop instead would tell of the clip that caused it.
    """
    parameters = {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}

    def loss_of_one(weights: Gradient, sample: Tensor, label: Tensor) -> Tensor:
        return loss(functional_call(model, weights, (sample.unsqueeze(0),)), label.unsqueeze(0)).squeeze(0)

    gradients, losses = vmap(grad_and_value(loss_of_one), in_dims=(None, 0, 0))(parameters, features, labels)
    norms = torch.stack([value.flatten(1).norm(dim=1) for value in gradients.values()]).norm(dim=0)
    finite = norms.isfinite()
    scale = torch.where(finite, (clipping_norm / (norms + 1e-6)).clamp(max=1.0), 0.0)
    total = {
        name: torch.tensordot(scale, value.where(finite.view(-1, *[1] * (value.dim() - 1)), 0.0), dims=1)
        for name, value in gradients.items()
    }
    return total, float(losses.where(finite, 0.0).sum())


def add_noise(total: Gradient, deviation: float, random: SecureRandom) -> Gradient:
    """`total` plus independent normal noise of standard deviation `deviation` on every value."""
    return {
        name: value
        + torch.from_numpy(random.normal(value.numel()) * deviation).to(value.dtype).reshape(value.shape)
        for name, value in total.items()
    }
