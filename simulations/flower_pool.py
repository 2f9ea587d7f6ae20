"""Devices' work by our `ClientApp` in Flower's own simulation: slower, and the same to the last bit.

A cross-check of what all other backends leave out: Flower's messages, its nodes and its processes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import lru_cache, partial
from pathlib import Path

from common.errors import SimulationError
from common.protocol.plan import parse_plan
from fl_client.app import Handler, make_virtual_client_app
from fl_server.app import hold_virtual_fleet
from fl_server.fleet import FleetLostError
from simulations.pool import Answered, Job
from simulations.population import open_population
from simulations.ray_pool import require_ray
from simulations.scenario import Scenario
from simulations.workbench import Workbench

PATIENCE_SECONDS = 86_400.0
"""Flower wants to know when an answer is too late; here none is, for the clock is the simulation's own."""


class FlowerPool:
    """Implements `simulations.pool.Pool`. Each device is a node of Flower, and Ray runs them.

    Flower does not say what its workers do: all the time of an order counts as work.

    Args:
        world, kept: folders, as `ProcessPool`.

    Raises:
        SimulationError: FA-9001 Flower's simulation does not start, FA-9302 Ray is not installed.
    """

    def __init__(self, world: Path, scenario: Scenario, seed: int, kept: Path, workers: int) -> None:
        self.training_seconds = 0.0
        self._workers, self._held = workers, ExitStack()
        require_ray()
        arguments = str(world.absolute()), scenario.model_dump_json(), seed, str(kept.absolute())
        app = make_virtual_client_app(partial(device_of, *arguments))
        try:
            devices = len(open_population(world))
            self._fleet = self._held.enter_context(hold_virtual_fleet(app, devices, workers))
        except FleetLostError as error:
            raise _lost(str(error)) from error

    def work(self, plan: bytes, order: bytes, jobs: Sequence[Job]) -> Iterator[Answered]:
        kind, begin = parse_plan(plan).kind, time.monotonic()
        for attacks in (False, True):
            devices = [job.device for job in jobs if job.attacks == attacks]
            try:
                for reply in self._fleet.ask(bytes([attacks]) + plan, kind, PATIENCE_SECONDS, order, devices):
                    if reply.data is None:
                        raise _lost(reply.failure)
                    yield reply.node, reply.data
            except FleetLostError as error:
                raise _lost(str(error)) from error
        self.training_seconds += self._workers * (time.monotonic() - begin)

    def close(self) -> None:
        self._held.close()


def device_of(world: str, scenario: str, seed: int, kept: str, device: int) -> Handler:
    """What answers for `device`, in a process of Ray.

    An order is a plan after one byte that says whether the device attacks.
    """
    bench = _bench(world, scenario, seed, kept)

    def answer(order: bytes, weights: bytes) -> bytes:
        bench.take_order(order[1:], weights)
        return bench.answer(device, bool(order[0]))

    return answer


@lru_cache(maxsize=1)
def _bench(world: str, scenario: str, seed: int, kept: str) -> Workbench:
    """The one of this process."""
    return Workbench(Path(world), Scenario.model_validate_json(scenario), seed, Path(kept))


def _lost(why: str) -> SimulationError:
    return SimulationError(
        "FA-9001",
        f"Flower's simulation failed: {why.rstrip('.')}.",
        "Use --backend local; see the logs of Ray.",
    )
