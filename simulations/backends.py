"""Where devices' work is done, by the name a command gives it."""

from __future__ import annotations

from pathlib import Path

from common.errors import SimulationError
from simulations.pool import Pool, ProcessPool
from simulations.scenario import Scenario

BACKENDS = ("local", "ray", "flower")


def make_pool(backend: str, world: Path, scenario: Scenario, seed: int, kept: Path, workers: int) -> Pool:
    """So many workers of a backend.

    Args:
        world, kept: folders, as `ProcessPool`.

    Raises:
        SimulationError: FA-9001 workers cannot be started, FA-9005 there is no such backend.
    """
    match backend:
        case "local":
            return ProcessPool(world, scenario, seed, kept, workers)
        case "ray":
            from simulations.ray_pool import RayPool

            return RayPool(world, scenario, seed, kept, workers)
        case "flower":
            from simulations.flower_pool import FlowerPool

            return FlowerPool(world, scenario, seed, kept, workers)
    raise SimulationError(
        "FA-9005", f"There is no backend '{backend}'.", f"Give one of: {', '.join(BACKENDS)}."
    )
