"""Nearest-neighbour mixing before a rule (Allouah et al. 2023, "Fixing by Mixing", arXiv:2302.01772).

Devices with different clips differ honestly, and attackers hide in the difference. Means of neighbours differ
less, so that the rule behind has less to forgive.

Near is meant as in the paper ("distance"), or between the updates scaled to one length ("direction"). Honest
updates agree little, so a short step backwards (inner product manipulation, Xie et al. 2020) is nearer to
each of them than they are to each other; its direction is not. Lengths must then be bounded beforehand.
"""

from __future__ import annotations

import numpy as np

from common.protocol.tensors import blocks
from fl_server.rules.geometry import direction_distances, squared_distances
from fl_server.rules.rule import Rows
from fl_server.settings import Mixing


def mix(rows: Rows, attackers: int, near: Mixing) -> Rows:
    """Put in each update's place the mean of the n - `attackers` updates nearest to it, itself among them.

    Args:
        near: "distance" or "direction".
    """
    neighbours = len(rows) - attackers
    distances = squared_distances(rows) if near == "distance" else direction_distances(rows)
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :neighbours]
    shares = np.zeros((len(rows), len(rows)), np.float32)
    np.put_along_axis(shares, nearest, np.float32(1 / neighbours), axis=1)
    for part in blocks(rows.shape[1]):
        rows[:, part] = shares @ rows[:, part]
    return rows
