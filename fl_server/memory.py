"""What a coordinator remembers from round to round beside the weights; kept beside each version."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from safetensors.numpy import load, save

from common.protocol.tensors import Weights

KEPT_NORMS = 20
"""Rounds whose median norms are remembered."""


@dataclass(frozen=True, eq=False)
class Memory:
    """Empty before the first round.

    Args:
        optimizer: the server optimiser's moments, as `ServerOptimizer.memory`.
        algorithm: what the recipe's algorithm remembers, such as SCAFFOLD's control variate.
        norms: median norm of the updates of each of the last rounds, oldest first.
        steps: norm of the step that each of the last rounds took, oldest first.
    """

    optimizer: Weights = field(default_factory=dict)
    algorithm: Weights = field(default_factory=dict)
    norms: tuple[float, ...] = ()
    steps: tuple[float, ...] = ()

    def after(self, norm: float, step: float) -> Memory:
        """The same with one more round, whose updates' median norm and whose own step these are."""
        return replace(self, norms=(*self.norms, norm)[-KEPT_NORMS:], steps=(*self.steps, step)[-KEPT_NORMS:])

    def encode(self) -> bytes:
        """All of it as safetensors."""
        tensors = {f"optimizer.{name}": value for name, value in self.optimizer.items()}
        tensors |= {f"algorithm.{name}": value for name, value in self.algorithm.items()}
        norms, steps = (np.array(values, np.float64) for values in (self.norms, self.steps))
        return save({**tensors, "norms": norms, "steps": steps})


def decode_memory(data: bytes | None) -> Memory:
    """Take back what `Memory.encode` gave; None is the memory before the first round."""
    if data is None:
        return Memory()
    tensors = load(data)

    def under(prefix: str) -> Weights:
        return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}

    return Memory(
        under("optimizer."),
        under("algorithm."),
        tuple(map(float, tensors["norms"])),
        tuple(map(float, tensors["steps"])),
    )
