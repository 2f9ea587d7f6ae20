"""Distances and weighted sums of updates, in memory that does not depend on their length.

What is chosen or weighted by distances lies in the span of the updates, so their inner products say all there
is to know: a rule that moves in steps computes with n coefficients and touches the updates twice.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.protocol.tensors import Row, blocks
from fl_server.rules.rule import Rows

Matrix = NDArray[np.float64]
"""Between updates, (n, n)."""

Coefficients = NDArray[np.float64]
"""One for each update, (n,)."""


def inner_products(rows: Rows) -> Matrix:
    """Of all pairs of updates. Double precision: distances are small differences of them."""
    total = np.zeros((len(rows), len(rows)))
    for part in blocks(rows.shape[1]):
        block = rows[:, part].astype(np.float64)
        total += block @ block.T
    return total


def squared_distances(rows: Rows) -> Matrix:
    """Between all pairs of updates; exactly 0 from each to itself."""
    products = inner_products(rows)
    squares = np.diag(products)
    distances = np.maximum(squares[:, None] + squares - 2 * products, 0.0)
    np.fill_diagonal(distances, 0.0)
    return distances


def direction_distances(rows: Rows) -> Matrix:
    """Squared, between all pairs of updates scaled to length 1: 2 - 2 cos, exactly 0 from each to itself.

    One of zeros has no direction and counts as at right angles to all others: nearer than that, whoever sends
    nothing would be everybody's neighbour, for honest updates are not far from right angles either.
    """
    products = inner_products(rows)
    lengths = np.sqrt(np.diag(products))
    scale = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    distances = np.maximum(2 - 2 * scale[:, None] * products * scale, 0.0)
    np.fill_diagonal(distances, 0.0)
    return distances


def distances_from(centre: Coefficients, products: Matrix) -> NDArray[np.float64]:
    """Of all updates (n,) from their sum with the coefficients `centre`."""
    shared = products @ centre
    squares = np.diag(products) - 2 * shared + centre @ shared
    distances: NDArray[np.float64] = np.sqrt(np.maximum(squares, 0.0))
    return distances


def weighted_sum(rows: Rows, coefficients: Coefficients) -> Row:
    """The sum of all updates, each times its coefficient."""
    total = np.empty(rows.shape[1], np.float32)
    for part in blocks(rows.shape[1]):
        total[part] = coefficients @ rows[:, part].astype(np.float64)
    return total


def plain_mean(rows: Rows) -> Row:
    """The mean of all updates."""
    return weighted_sum(rows, np.full(len(rows), 1 / len(rows)))
