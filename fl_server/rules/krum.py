"""Krum and MultiKrum (Blanchard et al. 2017, "Machine Learning with Adversaries").

The score of an update is the sum of its squared distances to its nearest neighbours. They are n - f - 1 here
as in byzfl and in Allouah et al. 2023 (arXiv:2302.01772), where the first paper has one less.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.protocol.tensors import Row
from fl_server.rules.geometry import squared_distances, weighted_sum
from fl_server.rules.rule import Rows


def krum(rows: Rows, attackers: int) -> Row:
    """The update with the best score; the first of several.

    Args:
        rows: at least 2 * `attackers` + 3.
    """
    best: Row = rows[_best_first(rows, attackers)[0]].copy()
    return best


def multi_krum(rows: Rows, attackers: int) -> Row:
    """The mean of all updates but the `attackers` with the worst scores."""
    chosen = len(rows) - attackers
    coefficients = np.zeros(len(rows))
    coefficients[_best_first(rows, attackers)[:chosen]] = 1 / chosen
    return weighted_sum(rows, coefficients)


def _best_first(rows: Rows, attackers: int) -> NDArray[np.int64]:
    nearest = np.sort(squared_distances(rows), axis=1)[:, 1 : len(rows) - attackers]
    return np.argsort(nearest.sum(axis=1), kind="stable")
