"""One run of a scenario with one seed: make its world, hold its rounds, write down what came of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from common.files import write_atomic
from simulations.backends import make_pool
from simulations.checkpoint import Checkpoint, RunFolder
from simulations.conclusion import conclude
from simulations.progress import Progress
from simulations.release import write_release
from simulations.results import SimulationResults, TimeSpent
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
    watch: Callable[[Progress], None] = lambda progress: None,
) -> SimulationResults:
    """Run `scenario` and write all that it finds into `folder`.

    Ctrl-C ends it early, with the results of the rounds that are over. However it ends, it can be resumed.

    Args:
        workers: processes that do the devices' work; the results do not depend on it.
        resume: go on where a run in `folder` ended.
        backend: "local", "ray" or "flower".
        cache: keeps what is computed from clips for other runs; by default in `folder`.
        watch: told of the progress, several times a round.

    Raises:
        SimulationError: FA-9001 workers die; FA-9002 there is another run in `folder`, FA-9003 which goes on,
            FA-9004 which is damaged; FA-9005 the backend; FA-9103 the trace; FA-9201 the attack.
        DataError, ConfigError: as `build_world`.
        TrainingError: FA-7001, the architecture.
        StorageError: FA-8001.
    """
    run = RunFolder(folder, scenario, seed)
    with run.alone():
        begin, known = time.monotonic(), run.open(resume)
        watch(Progress("preparing", scenario.number_of_rounds))
        world = build_world(scenario, seed, folder / "world", cache or folder / "cache")
        with closing(make_pool(backend, world.folder, scenario, seed, folder / "kept", workers)) as pool:
            simulation = Simulation(world, scenario, seed, pool, workers, watch)
            at = simulation.start(known).with_time(TimeSpent(preparing=time.monotonic() - begin))
            return _run(simulation, run, at)


def _run(simulation: Simulation, run: RunFolder, at: Checkpoint) -> SimulationResults:
    """Hold the rounds that are still to be held, and conclude."""
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
    if at.facts.version > 0 and not interrupted:
        write_release(simulation, at, run.root / "release")
    return results
