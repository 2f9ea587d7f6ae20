"""Where clipped gradients meet noise: on the integers, where arithmetic is exact.

Noise in floating point betrays the value under it, by the spacing of the numbers that a sum can take (Mironov
2012; Jin et al. 2022). So every gradient is first put on a grid, as whole numbers of one step; these are
added, and noise of whole steps is added to them, with not one rounding. Nothing done afterwards, in floating
point or not, can betray more.

The bound. Each value is rounded towards zero, so that none grows but by the rounding of one division in
float32. The length of the row of integers is then checked, exactly where it is not plainly short enough, and
whatever the arithmetic before has done. So adding or removing one row changes the total by a vector of
integers no longer than SIGMA / noise_multiplier steps. That the other rows stay as they are is for whoever
makes them: see `common.training.gradients`.

The bias. A value loses less than a step, half of one on average, where the noise on the total is SIGMA steps.
A row of P values at the clipping norm has SIGMA / (noise_multiplier * sqrt(P)) steps a value: with 80,000
parameters and a noise multiplier of 1 that is 58, and the row becomes about one per cent shorter. SIGMA is as
large as it is for this reason alone.

The accountant. Epsilon is worked out for the continuous Gaussian, from moments of the privacy loss between
N(0, sigma^2) and its mixture with N(s, sigma^2). At a whole order of Renyi divergence, a moment is a sum over
exp((k^2 - k) |s|^2 / 2 sigma^2), k whole (Mironov et al. 2019). On the integers each of these terms has a
factor sum_x exp(-(x - ks)^2 / 2 sigma^2) / sum_x exp(-x^2 / 2 sigma^2) for every coordinate, which is exactly
1 because ks is whole: the moments are the same, without an error. At orders between, the factor is at most 1
and differs from it by less than 5 exp(-2 pi^2 sigma^2), which for SIGMA is below 10^(-10^9). The error of the
sampler itself is `discrete_gaussian.ERROR` for each value; accounting adds it to delta.
"""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor

from common.privacy.discrete_gaussian import discrete_gaussian
from common.privacy.secure_random import SecureRandom

SIGMA = 16384.0
"""The one standard deviation, in steps of a grid, at which noise is ever drawn."""


class Grid:
    """The grid for sums of rows of which each is no longer than `clipping_norm`.

    Args:
        noise_multiplier: standard deviation of the noise over the clipping norm, above 0.
        clipping_norm: largest L2 norm of a row, above 0.
    """

    def __init__(self, noise_multiplier: float, clipping_norm: float) -> None:
        self.step = noise_multiplier * clipping_norm / SIGMA
        self._longest_square = math.floor((Fraction(SIGMA) / Fraction(noise_multiplier)) ** 2)

    def total(self, rows: Tensor) -> Tensor:
        """The sum of rows (G, P) in whole steps, (P,) float64, exact; totals of several may be added.

        A row longer than the clipping norm is shortened to it, and one with a value that is not finite counts
        as zero: to stop instead would tell of the clip that caused it.
        """
        # float32 takes half the time, and has every whole number up to 2^24. A row's own steps are the same
        # in either: otherwise one row more could change the others.
        small = len(rows) * math.isqrt(self._longest_square) <= 2**24
        total = torch.zeros(rows.shape[1], dtype=torch.float32 if small else torch.float64)
        steps = torch.empty_like(total)
        for row in rows:
            torch.div(row, self.step, rounding_mode="trunc", out=steps)
            total += self._held(steps)
        return total.double()

    def noised(self, total: Tensor, random: SecureRandom) -> Tensor:
        """`total` (P,) with noise on every value, as gradients again: (P,) float32."""
        noise = torch.from_numpy(discrete_gaussian(int(SIGMA)).draw(total.numel(), random))
        return noise.double().add_(total).mul_(self.step).float()

    def _held(self, steps: Tensor) -> Tensor:
        """A row of whole steps (P,), which may be changed, never longer than allowed."""
        # Each of P products and sums may lose 2^-24 of itself, in float32; most rows are clear of that.
        if float(steps.dot(steps)) <= self._longest_square * (1 - len(steps) * 2.0**-24):
            return steps
        exact = steps.double()
        # Exact while it is below 2^53, and `_longest_square` is.
        square = float(exact.dot(exact))
        if square <= self._longest_square:
            return steps
        if not math.isfinite(square):
            return steps.zero_()
        # A billionth more than needed, so that the rounding of this product cannot lengthen it again.
        return steps.copy_(exact.mul_((1 - 1e-9) * math.sqrt(self._longest_square / square)).trunc_())
