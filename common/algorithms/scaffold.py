"""SCAFFOLD (Karimireddy et al. 2020, "Stochastic Controlled Averaging", arXiv:1910.06378), option II.

A control variate is a guess of a gradient: the coordinator's (c) of the whole fleet's, a device's (c_i) of
its own. Each step of a device is corrected by c - c_i, so it goes where the fleet would go and not where the
device's own clips alone would lead it. By option II the mean gradient of a device's steps is its next c_i.

c is the mean of all c_i as long as the change of each saved c_i enters the mean of its round as it is, and
the round is not void. A device saves c_i before it answers: if its answer is lost or refused, or the round is
void, c stays away from the mean of the c_i for good, for a later answer tells of later changes only. Weights
by clips, and devices that come or go, shift it too. Norm clipping, mixing and other rules than the mean would
do so in every round, so settings with them are refused.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from common.algorithms.algorithm import Algorithm, Part
from common.models.acoustic import AcousticModel
from common.protocol.plan import Recipe
from common.protocol.tensors import Schema, Weights

CONTROL = "control."
"""What the names of a control variate begin with; a parameter's name follows."""


class ControlledPart(Part):
    """Corrects every step, and finds the device's next control variate.

    Args:
        recipe: of plain SGD without clipping of gradients, which would clip the corrections as well: with K
            steps at a rate of eta, (x - y) / (K eta) is then their mean gradient and correction.
    """

    def __init__(self, model: AcousticModel, recipe: Recipe, order: Weights, kept: Weights) -> None:
        super().__init__(model, recipe, order, kept)
        parameters = dict(model.named_parameters())
        self._fleet = {name: order[CONTROL + name] for name in parameters}
        self._own = {
            name: kept.get(CONTROL + name, np.zeros_like(control)) for name, control in self._fleet.items()
        }
        self._corrections: list[Tensor] = [
            torch.from_numpy(self._fleet[name] - self._own[name]) for name in parameters
        ]

    def correct_gradients(self) -> None:
        for value, correction in zip(self.model.parameters(), self._corrections, strict=True):
            if value.grad is not None:
                value.grad.add_(correction)

    def answer(self, steps: int) -> tuple[Weights, Weights]:
        delta = self.delta()
        if steps == 0:
            change = {name: np.zeros_like(value) for name, value in delta.items()}
        else:
            moved = np.float32(steps * self.recipe.learning_rate)
            change = {name: -self._fleet[name] - value / moved for name, value in delta.items()}
        own = {CONTROL + name: self._own[name] + change[name] for name in delta}
        return delta | {CONTROL + name: value for name, value in change.items()}, own


class Scaffold(Algorithm):
    """The order brings the coordinator's control variate, the answer the change of the device's."""

    part = ControlledPart

    def order(self, weights: Weights, memory: Weights) -> Weights:
        return weights | _control(weights, memory)

    def order_schema(self, schema: Schema) -> Schema:
        return schema | self.kept_schema(schema)

    def answer_schema(self, schema: Schema) -> Schema:
        return self.order_schema(schema)

    def kept_schema(self, schema: Schema) -> Schema:
        return {CONTROL + name: shape for name, shape in schema.items()}

    def start(self, order: Weights, kept: Weights) -> Weights:
        return {name: value for name, value in order.items() if not name.startswith(CONTROL)}

    def conclude(
        self, mean: Weights, weights: Weights, memory: Weights, share: float
    ) -> tuple[Weights, Weights]:
        """Move c by the mean change, times the share of the fleet that changed."""
        control = _control(weights, memory)
        delta = {name: mean[name] for name in weights}
        return delta, {name: value + np.float32(share) * mean[name] for name, value in control.items()}


def _control(weights: Weights, memory: Weights) -> Weights:
    """The coordinator's control variate; zero before the first round."""
    return {
        CONTROL + name: memory.get(CONTROL + name, np.zeros_like(value)) for name, value in weights.items()
    }
