"""Geometric median (RFA, Pillutla et al. 2019, "Robust Aggregation for Federated Learning",
arXiv:1912.13445).

The point with the least sum of distances to all updates, by the smoothed Weiszfeld algorithm. The paper stops
after 3 steps, for each is a secure sum over the devices; here a step costs next to nothing.
"""

from __future__ import annotations

import numpy as np

from common.protocol.tensors import Row
from fl_server.rules.geometry import distances_from, inner_products, weighted_sum
from fl_server.rules.rule import Rows

STEPS = 100

SMOOTHING = 1e-6
"""nu of the paper: the distance below which an update pulls no harder."""


def geometric_median(rows: Rows, steps: int = STEPS, smoothing: float = SMOOTHING) -> Row:
    """Step after step from no change, the mean of the updates, each by the inverse of its distance."""
    products = inner_products(rows)
    centre = np.zeros(len(rows))
    for _ in range(steps):
        pulls = 1 / np.maximum(distances_from(centre, products), smoothing)
        centre = pulls / pulls.sum()
    return weighted_sum(rows, centre)
