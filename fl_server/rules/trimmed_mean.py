"""Coordinate-wise trimmed mean (Yin et al. 2018, arXiv:1803.01498)."""

from __future__ import annotations

import numpy as np

from common.protocol.tensors import Row, blocks
from fl_server.rules.rule import Rows


def trimmed_mean(rows: Rows, attackers: int) -> Row:
    """Of every value, the mean of what is left without the `attackers` largest and as many smallest.

    Args:
        rows: more than twice as many as attackers.
    """
    kept = slice(attackers, len(rows) - attackers)
    result = np.empty(rows.shape[1], np.float32)
    for part in blocks(rows.shape[1]):
        result[part] = np.sort(rows[:, part], axis=0)[kept].mean(axis=0, dtype=np.float64)
    return result
