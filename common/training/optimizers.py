"""What turns gradients into a step: torch's SGD and AdamW, with as little around them as can be."""

from __future__ import annotations

from typing import Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd

from common.protocol.plan import Recipe


class Optimizer(Protocol):
    """Changes a model's parameters as their gradients say; a parameter without one stays as it is."""

    parameters: list[nn.Parameter]

    def step(self) -> object: ...


def optimizer_for(model: nn.Module, recipe: Recipe) -> Optimizer:
    """The one `recipe` asks for, which remembers nothing of any training before."""
    if recipe.optimizer == "sgd":
        return Sgd(model, recipe)
    known = _made.get(model)
    if known is None or known.recipe != recipe:
        known = _made[model] = AdamW(model, recipe)
    known.state.clear()
    return known


class Sgd:
    """Stochastic gradient descent with momentum (Sutskever et al. 2013) and weight decay.

    torch's own function, without torch's class around it: between two passes through a network, which leave
    nothing in a processor's cache, that one takes twice as long for the same numbers.
    """

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        self.parameters, self._recipe = list(model.parameters()), recipe
        self._velocities: list[Tensor | None] = [None] * len(self.parameters)

    @torch.no_grad()
    def step(self) -> None:
        moved = [index for index, value in enumerate(self.parameters) if value.grad is not None]
        velocities = [self._velocities[index] for index in moved]
        sgd(
            [self.parameters[index] for index in moved],
            [gradient for value in self.parameters if (gradient := value.grad) is not None],
            velocities,
            foreach=False,
            lr=self._recipe.learning_rate,
            momentum=self._recipe.momentum,
            weight_decay=self._recipe.weight_decay,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
        for index, velocity in zip(moved, velocities, strict=True):
            self._velocities[index] = velocity


class AdamW(torch.optim.AdamW):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019).

    `fused` would be faster, but takes a gradient that is not contiguous for another one (torch 2.13).
    """

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        self.parameters, self.recipe = list(model.parameters()), recipe
        super().__init__(
            self.parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, foreach=True
        )


_made: WeakKeyDictionary[nn.Module, AdamW] = WeakKeyDictionary()
"""That of each model's last training, for to make one takes as long as to use it."""
