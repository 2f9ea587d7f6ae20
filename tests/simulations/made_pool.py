"""A pool without processes, and short scenarios for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.files import sha256
from common.protocol.tensors import Weights, encode_weights
from simulations.checkpoint import Checkpoint
from simulations.pool import Answered, Job
from simulations.scenario import Scenario
from simulations.simulation import Simulation
from simulations.workbench import Workbench
from simulations.world import build_world

QUICK = {"steps": 2, "batch_size": 2}
SGD = {"optimizer": "sgd", "momentum": 0.0, "gradient_clip": 0.0, "learning_rate": 0.05}
PLAIN_MEAN = {"rule": "mean", "mixing": "off", "norm_clipping": 0.0}
SCAFFOLD: dict[str, dict[str, Any]] = {
    "recipe": SGD | {"algorithm": "scaffold"},
    "aggregation": PLAIN_MEAN,
}


class BenchPool:
    """Implements `simulations.pool.Pool` in this process.

    Args:
        rng: shuffles the order in which answers come.
    """

    def __init__(
        self, world: Path, scenario: Scenario, seed: int, kept: Path, rng: np.random.Generator | None = None
    ) -> None:
        self.training_seconds = 0.0
        self.jobs: list[list[Job]] = []
        self._bench, self._rng = Workbench(world, scenario, seed, kept), rng

    def work(self, plan: bytes, order: bytes, jobs: Sequence[Job]) -> Iterator[Answered]:
        self._bench.take_order(plan, order)
        self.jobs.append(list(jobs))
        places = range(len(jobs)) if self._rng is None else self._rng.permutation(len(jobs))
        for place in places:
            yield jobs[place].device, self._bench.answer(jobs[place].device, jobs[place].attacks)

    def close(self) -> None:
        pass


def quick(scenario: Scenario, **tables: Any) -> Scenario:
    """`scenario` with a small model, few steps, and other changes."""
    document = scenario.model_dump(exclude_unset=True)
    document["task"] = document.get("task", {}) | {"width": 4}
    document["recipe"] = QUICK
    for key, value in tables.items():
        document[key] = {**document.get(key, {}), **value} if isinstance(value, dict) else value
    return Scenario.model_validate(document)


def started(
    scenario: Scenario, folder: Path, cache: Path, seed: int = 0, rng: np.random.Generator | None = None
) -> tuple[Simulation, BenchPool, Checkpoint]:
    """A simulation in this process, before its first round."""
    world = build_world(scenario, seed, folder / "world", cache)
    pool = BenchPool(world.folder, scenario, seed, folder / "kept", rng)
    simulation = Simulation(world, scenario, seed, pool)
    return simulation, pool, simulation.start(None)


def digest(weights: Weights) -> str:
    return sha256(encode_weights(weights))
