"""One step of DP-SGD (Abadi et al. 2016): which units take part in it, and the sum that is published of their
gradients.

A unit of privacy is a clip, a recording or a speaker. Adding or removing one adds or removes one row of that
sum, and no row is longer than the clipping norm.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from common.privacy.clipping import Clipping
from common.privacy.grid import Grid
from common.privacy.secure_random import SecureRandom


def poisson_sample(units: int, rate: float, random: SecureRandom) -> npt.NDArray[np.int64]:
    """Each of 0..units-1 with probability `rate`, independently, as the accountant assumes; perhaps none."""
    # In steps of the dice, downwards: no unit may be drawn more often than is accounted for.
    return np.flatnonzero(random.uniform(units) < math.floor(rate * 2**53) * 2.0**-53)


def private_sum(rows: Iterable[Tensor], columns: int, clipping: Clipping, random: SecureRandom) -> Tensor:
    """The noised sum (P,) of clipped gradients; of no rows it is noise alone.

    Args:
        rows: a row for each unit of the step, in parts (G, P), which are changed; perhaps none.
        columns: P.
    """
    grid = Grid(clipping.noise_multiplier, clipping.norm)
    total = torch.zeros(columns, dtype=torch.float64)
    for part in rows:
        clipping.shorten(part)
        total += grid.total(part)
    clipping.end_step(random)
    return grid.noised(total, random)
