"""Algorithms by the name a recipe gives them."""

from __future__ import annotations

from collections.abc import Mapping

from common.algorithms.algorithm import Algorithm
from common.algorithms.fedper import FedPer
from common.algorithms.fedprox import FedProx
from common.algorithms.fedrep import FedRep
from common.algorithms.scaffold import Scaffold
from common.models.acoustic import trained_part
from common.protocol.algorithms import AlgorithmName
from common.protocol.plan import Recipe
from common.protocol.tensors import Schema

ALGORITHMS: Mapping[AlgorithmName, Algorithm] = {
    "fedavg": Algorithm(),
    "fedprox": FedProx(),
    "scaffold": Scaffold(),
    "fedper": FedPer(),
    "fedrep": FedRep(),
}


def answer_schema(recipe: Recipe, schema: Schema) -> Schema:
    """Shapes of the tensors that devices answer with, which train a model of `schema` by `recipe`."""
    return ALGORITHMS[recipe.algorithm].answer_schema(trained_part(recipe.trained, schema))
