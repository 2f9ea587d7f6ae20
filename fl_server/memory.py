"""What a coordinator remembers from round to round beside the weights; kept beside each version."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from common.protocol.plan import Recipe
from common.protocol.tensors import Schema, Weights
from fl_server.settings import OptimizerConfig

log = logging.getLogger(__name__)

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
        of: what it was made by, as `made_by`.
    """

    optimizer: Weights = field(default_factory=dict)
    algorithm: Weights = field(default_factory=dict)
    norms: tuple[float, ...] = ()
    steps: tuple[float, ...] = ()
    of: str = ""

    def after(self, norm: float, step: float) -> Memory:
        """The same with one more round, whose updates' median norm and whose own step these are."""
        return replace(self, norms=(*self.norms, norm)[-KEPT_NORMS:], steps=(*self.steps, step)[-KEPT_NORMS:])

    def encode(self) -> bytes:
        """All of it as safetensors."""
        tensors = {f"optimizer.{name}": value for name, value in self.optimizer.items()}
        tensors |= {f"algorithm.{name}": value for name, value in self.algorithm.items()}
        norms, steps = (np.array(values, np.float64) for values in (self.norms, self.steps))
        return save(
            {**tensors, "norms": norms, "steps": steps, "of": np.frombuffer(self.of.encode(), np.uint8)}
        )


def made_by(recipe: Recipe, optimizer: OptimizerConfig, schema: Schema) -> str:
    """Names all that a memory hangs on: algorithm, what is trained, kind of server optimiser, model's shapes.

    Under any other, earlier norms and steps are those of something else, and moments and control variates
    mean nothing.
    """
    return json.dumps([recipe.algorithm, recipe.trained, optimizer.kind, sorted(schema.items())])


def decode_memory(data: bytes | None, of: str) -> Memory:
    """Take back what `Memory.encode` gave; None is the memory before the first round.

    A memory helps and is not needed: what is damaged, or was made by something else than `of`, is passed over
    with a line in the log, and the next round goes on without it.
    """
    if data is None:
        return Memory()
    try:
        memory = _read(load(data))
    except (SafetensorError, LookupError, TypeError, ValueError) as error:
        log.warning("what was remembered of earlier rounds is damaged and is not used: %s", error)
        return Memory()
    if memory.of == of:
        return memory
    if memory.of:
        log.warning("what was remembered of earlier rounds is of other settings and is not used")
    return Memory()


def _read(tensors: dict[str, NDArray[np.generic]]) -> Memory:
    """Raises LookupError, TypeError or ValueError for what `Memory.encode` does not write."""

    def under(prefix: str) -> Weights:
        found = {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
        if not all(value.dtype == np.float32 and np.isfinite(value).all() for value in found.values()):
            raise ValueError(f"not all of {prefix}* are finite numbers in single precision")
        return found  # type: ignore[return-value]

    def numbers(name: str) -> tuple[float, ...]:
        values = tuple(map(float, tensors[name]))
        if len(values) > KEPT_NORMS or not all(value >= 0 and math.isfinite(value) for value in values):
            raise ValueError(f"{name} are not the lengths of a few rounds")
        return values

    return Memory(
        under("optimizer."),
        under("algorithm."),
        numbers("norms"),
        numbers("steps"),
        tensors["of"].tobytes().decode(),
    )
