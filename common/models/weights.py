"""Weights out of a model and into it."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from common.errors import TrainingError
from common.protocol.tensors import Weights, schema_of


def get_weights(model: nn.Module) -> Weights:
    """A copy of the parameters by name, in the model's own order."""
    return {name: value.detach().numpy().copy() for name, value in model.named_parameters()}


@torch.no_grad()
def set_weights(model: nn.Module, weights: Weights) -> None:
    """Copy `weights` into the parameters of `model`.

    Raises:
        TrainingError: FA-7002, names or shapes differ from the model's.
    """
    parameters = dict(model.named_parameters())
    schema = {name: tuple(value.shape) for name, value in parameters.items()}
    given = schema_of(weights)
    if given != schema:
        odd = min(name for name in given.keys() | schema.keys() if given.get(name) != schema.get(name))
        raise TrainingError(
            "FA-7002",
            f"The weights are of another model: '{odd}' is {given.get(odd, 'missing')}, "
            f"the model has {schema.get(odd, 'no such parameter')}.",
            "Use weights trained for the same task, architecture and width.",
        )
    for name, value in parameters.items():
        value.copy_(torch.from_numpy(np.array(weights[name], np.float32)))
