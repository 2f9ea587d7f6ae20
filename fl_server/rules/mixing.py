"""Nearest-neighbour mixing before a rule (Allouah et al. 2023, "Fixing by Mixing", arXiv:2302.01772).

Devices with different clips differ honestly, and attackers hide in the difference. Means of neighbours differ
less, so that the rule behind has less to forgive.
"""

from __future__ import annotations

import numpy as np

from common.protocol.tensors import blocks
from fl_server.rules.geometry import squared_distances
from fl_server.rules.rule import Rows


def mix(rows: Rows, attackers: int) -> Rows:
    """Put in each update's place the mean of the n - `attackers` updates nearest to it, itself among them."""
    neighbours = len(rows) - attackers
    nearest = np.argsort(squared_distances(rows), axis=1, kind="stable")[:, :neighbours]
    shares = np.zeros((len(rows), len(rows)), np.float32)
    np.put_along_axis(shares, nearest, np.float32(1 / neighbours), axis=1)
    for part in blocks(rows.shape[1]):
        rows[:, part] = shares @ rows[:, part]
    return rows
