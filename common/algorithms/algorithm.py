"""The seam: what an algorithm may change of a round. The defaults are FedAvg's.

A round is: the coordinator sends tensors (`order`), a device starts a model from them (`start`), trains it
(`Part`), answers with tensors, the coordinator takes their mean and learns from it (`conclude`). What an
algorithm remembers is tensors too: `memory` at the coordinator, `kept` on a device, both empty at first.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from common.models.acoustic import AcousticModel, trained_part
from common.models.weights import get_weights, live_weights
from common.protocol.plan import Recipe
from common.protocol.tensors import Schema, Weights


class Part:
    """One device's part in one round: told of every step of its training, and asked for the answer.

    Args:
        model: with the weights it starts from.
        recipe: how it trains.
        order: tensors the coordinator sent.
        kept: what the device kept of its last part; empty the first time.
    """

    def __init__(self, model: AcousticModel, recipe: Recipe, order: Weights, kept: Weights) -> None:
        self.model, self.recipe, self.order, self.kept = model, recipe, order, kept
        self.start: list[Tensor] = [torch.from_numpy(value) for value in get_weights(model).values()]

    def before_step(self, step: int, steps: int) -> None:
        """Called before step 0..steps-1; may switch `requires_grad` of parameters."""

    def correct_gradients(self) -> None:
        """Called when the gradients of a step are there, after any privacy noise; may change them."""

    def answer(self, steps: int) -> tuple[Weights, Weights]:
        """What to send after `steps` steps, and what to keep for the next part."""
        return trained_part(self.recipe.trained, self.delta()), {}

    def delta(self) -> Weights:
        """New weights minus old, of the whole model."""
        return {
            name: value - origin.numpy()
            for (name, value), origin in zip(live_weights(self.model).items(), self.start, strict=True)
        }


class Algorithm:
    """FedAvg (McMahan et al. 2017): devices are sent the weights and answer with a delta."""

    part: type[Part] = Part
    personal = False
    """Whether what a device keeps is part of its model, so that the shared model alone says little."""

    def order(self, weights: Weights, memory: Weights) -> Weights:
        """Tensors that devices are sent."""
        return weights

    def order_schema(self, schema: Schema) -> Schema:
        """Shapes of the tensors of an order, for a model of `schema`."""
        return schema

    def answer_schema(self, schema: Schema) -> Schema:
        """Shapes of the tensors of an answer, of a recipe that trains the parameters of `schema`."""
        return schema

    def kept_schema(self, schema: Schema) -> Schema:
        """Shapes of the tensors that a device keeps. Those under a parameter's name are the device's own
        version of it, with which it listens too; all others need names that no parameter has."""
        return {}

    def start(self, order: Weights, kept: Weights) -> Weights:
        """The model's weights on a device, before it trains or is tried there."""
        return order

    def conclude(
        self, mean: Weights, weights: Weights, memory: Weights, share: float
    ) -> tuple[Weights, Weights]:
        """The delta of the whole model, and what to remember.

        Args:
            mean: of the answers.
            weights: of the model that was sent.
            share: of the fleet's devices, those whose answers are in the mean; in (0, 1].
        """
        return {name: mean.get(name, np.zeros_like(value)) for name, value in weights.items()}, {}
