"""Names of the algorithms, for those who must not load what trains by them: see `common.algorithms`."""

from __future__ import annotations

from typing import Literal

AlgorithmName = Literal["fedavg", "fedprox", "scaffold", "fedper", "fedrep"]

PERSONAL: frozenset[AlgorithmName] = frozenset({"fedper", "fedrep"})
"""Those by which each device has its own version of some parameters."""
