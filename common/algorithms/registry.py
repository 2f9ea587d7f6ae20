"""Algorithms by the name a recipe gives them."""

from __future__ import annotations

from collections.abc import Mapping

from common.algorithms.algorithm import Algorithm
from common.algorithms.fedper import FedPer
from common.algorithms.fedprox import FedProx
from common.algorithms.fedrep import FedRep
from common.algorithms.scaffold import Scaffold
from common.protocol.algorithms import AlgorithmName

ALGORITHMS: Mapping[AlgorithmName, Algorithm] = {
    "fedavg": Algorithm(),
    "fedprox": FedProx(),
    "scaffold": Scaffold(),
    "fedper": FedPer(),
    "fedrep": FedRep(),
}
