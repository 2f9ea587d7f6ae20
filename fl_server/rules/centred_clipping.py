"""Centred clipping (Karimireddy et al. 2021, "Learning from History", arXiv:2012.10333)."""

from __future__ import annotations

import numpy as np

from common.protocol.tensors import Row
from fl_server.rules.geometry import distances_from, inner_products, weighted_sum
from fl_server.rules.rule import Rows

STEPS = 5


def centred_clipping(rows: Rows, steps: int = STEPS, radius: float | None = None) -> Row:
    """Step after step from no change, v + mean of (x - v) min(1, radius / |x - v|) over the updates x.

    Args:
        radius: tau of the paper, which leaves it to be tuned. By default the median distance from v at each
            step, so that whoever is far out pulls no harder than the middle one.
    """
    products = inner_products(rows)
    centre = np.zeros(len(rows))
    for _ in range(steps):
        distances = distances_from(centre, products)
        reach = float(np.median(distances)) if radius is None else radius
        pulls = np.minimum(1.0, reach / np.maximum(distances, np.finfo(np.float64).tiny))
        centre = (1 - pulls.mean()) * centre + pulls / len(rows)
    return weighted_sum(rows, centre)
