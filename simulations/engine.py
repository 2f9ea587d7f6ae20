"""One run of a scenario with one seed: make its world, hold its rounds, write down what came of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from common.errors import SimulationError
from common.files import write_atomic
from fl_server.rounds import log as rounds_log
from simulations.backends import make_pool
from simulations.checkpoint import Checkpoint, RunFolder
from simulations.conclusion import conclude
from simulations.progress import Progress
from simulations.release import write_release
from simulations.results import SimulationResults
from simulations.scenario import Scenario
from simulations.simulation import Simulation
from simulations.world import build_world


def simulate(
    scenario: Scenario,
    seed: int,
    folder: Path,
    *,
    workers: int = 1,
    resume: bool = False,
    backend: str = "local",
    cache: Path | None = None,
    release: bool = True,
    watch: Callable[[Progress], None] = lambda progress: None,
) -> SimulationResults:
    """Run `scenario` and write all that it finds into `folder`.

    Ctrl-C ends it early, with the results of the rounds that are over. However it ends, it can be resumed.

    Args:
        workers: processes that do the devices' work, or as many as there are devices in a round; the results
            do not depend on it.
        resume: go on where a run in `folder` ended.
        backend: "local", "ray" or "flower".
        cache: keeps what is computed from clips for other runs; by default in `folder`.
        release: whether the last version is exported as one.
        watch: told of the progress, several times a round.

    Raises:
        SimulationError: FA-9001 workers die, FA-9006 there is no room for what they say; FA-9002 there is
            another run in `folder`, or its clips have changed, FA-9003 it goes on, FA-9004 it is damaged;
            FA-9005 the backend; FA-9103 the trace; FA-9201 the attack, FA-9204 nobody attacks.
        DataError, ConfigError: as `build_world`; FA-6040, FA-6041, the rule can work in no round.
        TrainingError: FA-7001, the architecture.
        StorageError: FA-8001.
    """
    run, workers = RunFolder(folder, scenario, seed), min(workers, scenario.largest_cohort)
    with run.alone(), _quiet():
        begin, known = time.monotonic(), run.open(resume)
        watch(Progress("preparing", scenario.number_of_rounds))
        world = build_world(scenario, seed, folder / "world", cache or folder / "cache")
        if known and known.facts.world != world.key:
            raise SimulationError(
                "FA-9002",
                f"The clips of the simulation in {folder} have changed since it began.",
                "Put back the clips it began with, or give another folder with --out.",
            )
        with closing(make_pool(backend, world.folder, scenario, seed, folder / "kept", workers)) as pool:
            simulation = Simulation(world, scenario, seed, pool, workers, watch)
            at = simulation.start(known).prepared(time.monotonic() - begin)
            results, at = _run(simulation, run, at)
            if release and at.facts.version > 0 and not results.interrupted:
                write_release(simulation, at, folder / "release")
            return results


def _run(simulation: Simulation, run: RunFolder, at: Checkpoint) -> tuple[SimulationResults, Checkpoint]:
    """Hold the rounds that are still to be held, and conclude; also where that was."""
    interrupted = False
    try:
        if not at.rounds:
            run.save(at)
        while at.facts.round < simulation.scenario.number_of_rounds:
            following = simulation.after(at)
            run.save(following)
            at = following
    except KeyboardInterrupt:
        interrupted = True
    simulation.tell("finishing")
    results = conclude(simulation, at, interrupted)
    write_atomic(run.root / "results.json", results.model_dump_json(indent=1).encode())
    return results, at


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep rounds from telling of every device that fails, as a coordinator does: results count them."""
    level = rounds_log.level
    rounds_log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        rounds_log.setLevel(level)
