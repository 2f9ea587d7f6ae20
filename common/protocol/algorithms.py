"""How a device may train, in names, for those who must not load what trains: see `common.algorithms`."""

from __future__ import annotations

from typing import Literal

AlgorithmName = Literal["fedavg", "fedprox", "scaffold", "fedper", "fedrep"]

PERSONAL: frozenset[AlgorithmName] = frozenset({"fedper", "fedrep"})
"""Those by which each device has its own version of some parameters."""

Trained = Literal["all", "head"]
"""What of a model is trained: all of it, or its last layer alone."""
