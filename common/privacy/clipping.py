"""How long the gradient of one unit may be."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn

from common.privacy.grid import Grid
from common.privacy.secure_random import SecureRandom
from common.protocol.plan import Privacy

SHORTEST, LONGEST = 1e-6, 1e6
"""Bounds of a norm that adapts: where no gradient is left, it would shrink for ever."""


class Clipping(Protocol):
    """Shortens rows, step after step.

    Attributes:
        norm: the length no row has in this step.
        noise_multiplier: of the noise on the sum of this step's rows, so that all that is published of it
            costs what the plan's noise multiplier says.
    """

    norm: float
    noise_multiplier: float

    def shorten(self, rows: Tensor) -> None:
        """Shorten rows (G, P) in place, each by itself. One with a value that is not finite becomes zero: to
        stop instead would tell of the clip that caused it."""

    def end_step(self, random: SecureRandom) -> None:
        """To be called once in each step, after its last rows."""


class FlatClipping:
    """The whole row no longer than the norm (Abadi et al. 2016)."""

    def __init__(self, privacy: Privacy) -> None:
        self.norm, self.noise_multiplier = privacy.clipping_norm, privacy.noise_multiplier

    def shorten(self, rows: Tensor) -> None:
        """As `Clipping`."""
        _shorten(rows, self.norm)

    def end_step(self, random: SecureRandom) -> None:
        """Nothing changes."""


class PerLayerClipping:
    """The part of each of L layers no longer than norm / sqrt(L), so the row no longer than the norm (McMahan
    et al. 2018)."""

    def __init__(self, privacy: Privacy, model: nn.Module) -> None:
        self.norm, self.noise_multiplier = privacy.clipping_norm, privacy.noise_multiplier
        self._model = model

    def shorten(self, rows: Tensor) -> None:
        """As `Clipping`."""
        rows[~rows.isfinite().all(dim=1)] = 0.0
        widths = self._widths()
        for part in torch.split(rows, widths, dim=1):
            _shorten(part, self.norm / math.sqrt(len(widths)))

    def end_step(self, random: SecureRandom) -> None:
        """Nothing changes."""

    def _widths(self) -> list[int]:
        """Columns of each layer; asked anew each time, for an algorithm may freeze some between steps."""
        sizes: dict[str, int] = {}
        for name, value in self._model.named_parameters():
            if value.requires_grad:
                layer = name.rpartition(".")[0]
                sizes[layer] = sizes.get(layer, 0) + value.numel()
        return list(sizes.values())


class AdaptiveClipping:
    """The norm follows a quantile of the rows' lengths (Andrew et al. 2021, "Differentially Private Learning
    with Adaptive Clipping").

    Each step counts the units that are no longer than the norm, each as 1/2 or -1/2, and publishes the count
    with noise of deviation s. That and the noised sum cost together what noise z on the sum alone does if the
    sum's noise is (z^-2 - (2s)^-2)^(-1/2) (their Theorem 1). s is a twentieth of the expected number of
    units, as they advise, but at least z, so that the sum's noise is at most 1.16 times z.

    Args:
        expected: units in a step; public.
    """

    RATE = 0.2

    def __init__(self, privacy: Privacy, expected: float) -> None:
        self.norm, self._quantile, self._expected = privacy.clipping_norm, privacy.quantile, expected
        deviation, noise = max(expected / 20, privacy.noise_multiplier), privacy.noise_multiplier
        self.noise_multiplier = (noise**-2 - (2 * deviation) ** -2) ** -0.5
        self._grid = Grid(2 * deviation, 0.5)
        self._count = torch.zeros(1, dtype=torch.float64)

    def shorten(self, rows: Tensor) -> None:
        """As `Clipping`."""
        halves = torch.where(_shorten(rows, self.norm) <= self.norm, 0.5, -0.5)
        self._count += self._grid.total(halves.unsqueeze(1))

    def end_step(self, random: SecureRandom) -> None:
        """Move the norm towards the quantile, for the next step."""
        share = float(self._grid.noised(self._count, random)) / self._expected + 0.5
        self._count.zero_()
        norm = self.norm * math.exp(-self.RATE * (min(1.0, max(0.0, share)) - self._quantile))
        self.norm = min(LONGEST, max(SHORTEST, norm))


def clipping_for(privacy: Privacy, model: nn.Module, expected: float) -> Clipping:
    """What `privacy` asks for.

    Args:
        expected: units in a step on average.
    """
    match privacy.clipping:
        case "flat":
            return FlatClipping(privacy)
        case "per-layer":
            return PerLayerClipping(privacy, model)
        case "adaptive":
            return AdaptiveClipping(privacy, expected)


def _shorten(rows: Tensor, norm: float) -> Tensor:
    """Clip rows (G, P) in place; their lengths before, (G,), infinite of those that were not finite."""
    lengths: Tensor = torch.linalg.vector_norm(rows, dim=1)
    broken = ~lengths.isfinite()
    if broken.any():
        rows[broken] = 0.0
        lengths[broken] = math.inf
    rows *= (norm / lengths).clamp(max=1.0).unsqueeze(1)
    return lengths
