"""The server optimiser: one step from the old weights along the mean delta of a round.

The mean delta, negated, is a pseudo-gradient for an ordinary torch optimiser (Reddi et al. 2021, "Adaptive
Federated Optimization"; Hsu et al. 2019 for FedAvgM).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

import numpy as np
import torch

from common.protocol.tensors import Weights
from fl_server.settings import OptimizerConfig


class Yogi(torch.optim.Optimizer):
    """Yogi (Zaheer et al. 2018): Adam whose second moment moves by steps of bounded size."""

    def __init__(
        self, params: Iterable[torch.nn.Parameter], lr: float, betas: tuple[float, float], eps: float
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None:
                    continue
                state: dict[str, Any] = self.state[parameter]
                if not state:
                    state["mean"] = torch.zeros_like(parameter)
                    state["variance"] = torch.full_like(parameter, group["eps"] ** 2)
                mean, variance, square = state["mean"], state["variance"], gradient.square()
                mean.lerp_(gradient, 1 - beta1)
                variance.sub_((1 - beta2) * square * torch.sign(variance - square))
                parameter.addcdiv_(mean, variance.sqrt() + group["eps"], value=-group["lr"])
        return None


class ServerOptimizer:
    """Weights on their way through the rounds, and the optimiser's memory of earlier ones."""

    def __init__(self, weights: Weights, config: OptimizerConfig) -> None:
        self._parameters = {
            name: torch.nn.Parameter(torch.from_numpy(np.array(value))) for name, value in weights.items()
        }
        self._kind = config.kind
        self._optimizer = _make(config, list(self._parameters.values()))

    def step(self, mean_delta: Weights) -> Weights:
        """New weights after one step along `mean_delta`."""
        for name, parameter in self._parameters.items():
            parameter.grad = torch.from_numpy(-mean_delta[name])
        self._optimizer.step()
        for parameter in self._parameters.values():
            parameter.grad = None
        return {name: parameter.detach().numpy().copy() for name, parameter in self._parameters.items()}

    def memory(self) -> Weights:
        """The optimiser's moments, to go on after a restart."""
        moments = self._optimizer.state_dict()["state"]
        return {
            f"{self._kind}.{index}.{key}": value.detach().numpy().copy()
            for index, slot in moments.items()
            for key, value in slot.items()
            if isinstance(value, torch.Tensor)
        }

    def recall(self, memory: Weights) -> None:
        """Take back what `memory()` gave; what another kind of optimiser remembers is of no use."""
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in memory.items():
            kind, index, key = name.split(".", 2)
            if kind == self._kind:
                state.setdefault(int(index), {})[key] = torch.from_numpy(np.array(value))
        document = self._optimizer.state_dict()
        document["state"] = state
        self._optimizer.load_state_dict(document)


def _make(config: OptimizerConfig, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    averaging = config.kind in ("fedavg", "fedavgm")
    rate = config.learning_rate or (1.0 if averaging else 0.01)
    betas = (config.momentum, config.beta2)
    match config.kind:
        case "fedavg":
            return torch.optim.SGD(parameters, lr=rate)
        case "fedavgm":
            return torch.optim.SGD(parameters, lr=rate, momentum=config.momentum)
        case "fedadam":
            return torch.optim.Adam(parameters, lr=rate, betas=betas, eps=config.tau)
        case "fedyogi":
            return Yogi(parameters, lr=rate, betas=betas, eps=config.tau)
