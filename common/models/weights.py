"""Weights out of a model and into it."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from torch import nn

from common.errors import TrainingError
from common.protocol.tensors import Weights, schema_of

_known: WeakKeyDictionary[nn.Module, Weights] = WeakKeyDictionary()


def live_weights(model: nn.Module) -> Weights:
    """The parameters by name, in the model's own order, as arrays that change when the model does.

    Kept with the model, whose parameters are changed in place and never replaced: to collect them takes
    longer than to copy them all.
    """
    if model not in _known:
        _known[model] = {name: value.detach().numpy() for name, value in model.named_parameters()}
    return _known[model]


def get_weights(model: nn.Module) -> Weights:
    """A copy of the parameters by name, in the model's own order."""
    return {name: value.copy() for name, value in live_weights(model).items()}


def set_weights(model: nn.Module, weights: Weights) -> None:
    """Copy `weights` into the parameters of `model`.

    Raises:
        TrainingError: FA-7002, names or shapes differ from the model's.
    """
    values = live_weights(model)
    schema, given = schema_of(values), schema_of(weights)
    if given != schema:
        odd = min(name for name in given.keys() | schema.keys() if given.get(name) != schema.get(name))
        raise TrainingError(
            "FA-7002",
            f"The weights are of another model: '{odd}' is {given.get(odd, 'missing')}, "
            f"the model has {schema.get(odd, 'no such parameter')}.",
            "Use weights trained for the same task, architecture and width.",
        )
    for name, value in values.items():
        value[...] = weights[name]
