"""Devices' work on the machines of a Ray cluster, or on this one.

The cluster is the one that RAY_ADDRESS names ("auto" is the one of this machine); where that is unset, Ray is
started here and ends with the run. The machines of a cluster must have fedaudio installed, and must all see
the run's folder under one path, on a file system that they share: what a device keeps between rounds must be
there wherever it works next.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import SimulationError
from simulations.pool import AHEAD, TRIES, Answered, Job
from simulations.scenario import Scenario
from simulations.workbench import Workbench

Bytes = NDArray[np.uint8]
"""Bytes as Ray hands them out without a copy."""


class RayPool:
    """Implements `simulations.pool.Pool` with actors, which hold one loaded model each.

    Args:
        world, kept: folders, as `ProcessPool`.
        workers: actors; each takes one processor.

    Raises:
        SimulationError: FA-9001 the workers cannot start, FA-9302 Ray is not installed, FA-9306 there is no
            such cluster or it is too small, FA-9307 its machines do not see the run's folder.
    """

    def __init__(self, world: Path, scenario: Scenario, seed: int, kept: Path, workers: int) -> None:
        self.training_seconds = 0.0
        self._orders, self._workers = 0, list[Any]()
        self._ray = require_ray()
        self._begun_here = not self._ray.is_initialized()
        try:
            if self._begun_here:
                _connect(self._ray, workers)
            actor = self._ray.remote(num_cpus=1, max_restarts=TRIES - 1, max_task_retries=TRIES - 1)(
                RayWorker
            )
            arguments = str(world.absolute()), scenario.model_dump_json(), seed, str(kept.absolute())
            self._workers = [actor.remote(*arguments) for _ in range(workers)]
            without = self._results([worker.host_without_world.remote() for worker in self._workers])
            if hosts := sorted({*without} - {""}):
                raise SimulationError(
                    "FA-9307",
                    f"There is no {world} on {', '.join(hosts)}.",
                    "Let the run write to a folder that all machines of the cluster share under one path.",
                )
        except BaseException:
            self.close()
            raise

    def work(self, plan: bytes, order: bytes, jobs: Sequence[Job]) -> Iterator[Answered]:
        self._orders += 1
        sent = self._orders, plan, self._ray.put(np.frombuffer(order, np.uint8))
        waiting = deque(sorted(jobs, key=lambda job: (-job.cost, job.device)))
        at_work: dict[Any, tuple[Any, Job]] = {}

        def give(worker: Any) -> None:
            if waiting:
                job = waiting.popleft()
                at_work[worker.answer.remote(*sent, job.device, job.attacks)] = worker, job

        for worker in self._workers * AHEAD:
            give(worker)
        try:
            while at_work:
                (done,), _ = self._ray.wait(list(at_work))
                worker, job = at_work.pop(done)
                give(worker)
                ((answer, seconds),) = self._results([done])
                self.training_seconds += seconds
                yield job.device, memoryview(answer)
        finally:
            # Of a round that is given up, nobody may go on to write what devices keep.
            if at_work:
                self._ray.wait(list(at_work), num_returns=len(at_work))

    def close(self) -> None:
        for worker in self._workers:
            self._ray.kill(worker)
        if self._begun_here:
            self._ray.shutdown()

    def _results(self, of: Sequence[Any]) -> list[Any]:
        try:
            return list(self._ray.get(list(of)))
        except self._ray.exceptions.RayError as error:
            raise SimulationError(
                "FA-9001",
                f"A Ray worker failed: {str(error).strip().splitlines()[-1]}.",
                "See the logs of Ray; a machine may be gone, or its memory used up.",
            ) from error


class RayWorker:
    """A workbench in an actor."""

    def __init__(self, world: str, scenario: str, seed: int, kept: str) -> None:
        self._arguments = Path(world), Scenario.model_validate_json(scenario), seed, Path(kept)
        self._order = 0

    @cached_property
    def _bench(self) -> Workbench:
        return Workbench(*self._arguments)

    def host_without_world(self) -> str:
        """The name of this machine if it does not see the run's folder; otherwise nothing."""
        try:
            self._bench  # noqa: B018 it is opened
        except OSError:
            return socket.gethostname()
        return ""

    def answer(
        self, number: int, plan: bytes, order: Bytes, device: int, attacks: bool
    ) -> tuple[Bytes, float]:
        """What `device` sends for the order `number`, and the seconds that took.

        Every job brings its order, of which there is one copy on each machine: so a worker that was started
        again, perhaps on another machine, needs nothing else.
        """
        begin = time.monotonic()
        if number != self._order:
            self._bench.take_order(plan, order.data)
            self._order = number
        answer = self._bench.answer(device, attacks)
        return np.frombuffer(answer, np.uint8), time.monotonic() - begin


def require_ray() -> ModuleType:
    """Ray, told to keep quiet and to keep to itself.

    Raises:
        SimulationError: FA-9302.
    """
    if find_spec("ray") is None:
        raise SimulationError(
            "FA-9302",
            "Ray is not installed.",
            "Install it: pip install 'fedaudio[ray]'; or use --backend local.",
        )
    # Read when Ray is imported and when it starts its processes.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if not {"RAY_ADDRESS", "RAY_AUTH_MODE"} & set(os.environ):
        # Ray listens on all addresses of the machine, and by itself lets everybody run anything.
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    import ray

    return ray


def _connect(ray: ModuleType, workers: int) -> None:
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False, "include_dashboard": False}
    address = os.environ.get("RAY_ADDRESS")
    if address is None:
        ray.init("local", num_cpus=workers, **quiet)
        return
    try:
        if (place := re.search(r"([^/:]+):(\d+)$", address)) is not None:
            # Ray itself would go on trying for five minutes.
            socket.create_connection((place[1], int(place[2])), timeout=10).close()
        ray.init(address, **quiet)
    except (OSError, ray.exceptions.RayError) as error:
        raise SimulationError(
            "FA-9306", f"There is no Ray cluster at {address}.", "Correct or unset RAY_ADDRESS."
        ) from error
    processors = int(ray.cluster_resources().get("CPU", 0))
    if processors < workers:
        raise SimulationError(
            "FA-9306",
            f"The Ray cluster at {address} has {processors} processors for {workers} workers.",
            "Use --workers with at most so many, or add machines to the cluster.",
        )
