"""One run of a scenario with one seed: make its world, hold its rounds, write down what came of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import platformdirs

from common.errors import SimulationError
from common.files import locked, make_folder, write_atomic
from common.protocol.tensors import Weights
from fl_server.rounds import log as rounds_log
from fl_server.warm_start import find_body
from simulations.backends import make_pool
from simulations.checkpoint import Checkpoint, RunFolder
from simulations.conclusion import conclude
from simulations.population import World
from simulations.progress import Progress
from simulations.release import write_release
from simulations.results import SimulationResults
from simulations.scenario import Scenario
from simulations.simulation import Simulation
from simulations.world import build_world


def own_cache() -> Path:
    """The user's own folder of what is computed from clips; at worst it costs time to empty it."""
    return platformdirs.user_cache_path("fedaudio") / "simulations"


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
        cache: keeps what is computed from clips for other runs; by default `own_cache()`.
        release: whether the last version is exported as one.
        watch: told of the progress, several times a round.

    Raises:
        SimulationError: FA-9001 workers die, FA-9006 there is no room for what they say; FA-9002 there is
            another run in `folder`, or its clips have changed, FA-9003 it goes on, FA-9004 it is damaged;
            FA-9005 the backend; FA-9103 the trace; FA-9201 the attack, FA-9204 nobody attacks.
        DataError, ConfigError: as `build_world`; CoordinatorError, ProtocolError: as `find_body`.
        ConfigError: FA-6040, FA-6041, the rule can work in no round.
        TrainingError: FA-7001, the architecture.
        StorageError: FA-8001.
    """
    run, workers = RunFolder(folder, scenario, seed), min(workers, scenario.largest_cohort)
    with run.alone(), _quiet():
        begin, known = time.monotonic(), run.open(resume)
        watch(Progress("preparing", scenario.number_of_rounds))
        world = build_world(scenario, seed, folder / "world", cache or own_cache())
        if known and known.facts.world != world.key:
            raise SimulationError(
                "FA-9002",
                f"The clips of the simulation in {folder} have changed since it began.",
                "Put back the clips it began with, or give another folder with --out.",
            )
        body = _warm_start(scenario, world, cache or own_cache(), watch)
        with closing(make_pool(backend, world.folder, scenario, seed, folder / "kept", workers)) as pool:
            simulation = Simulation(world, scenario, seed, pool, workers, watch, body)
            at = simulation.start(known).prepared(time.monotonic() - begin)
            results, at = _run(simulation, run, at)
            if release and at.facts.version > 0 and not results.interrupted:
                write_release(simulation, at, folder / "release")
            return results


def _warm_start(
    scenario: Scenario, world: World, cache: Path, watch: Callable[[Progress], None]
) -> Weights | None:
    """The body of the first version, if the scenario wants one; the same for all seeds, as a release is."""
    warm = scenario.warm_start
    if warm is None:
        return None
    names = tuple(Path(source).name for source in warm.sources)
    watch(Progress("learning", scenario.number_of_rounds, sources=names))
    with locked(make_folder(cache, mode=0o700) / ".lock"):
        return find_body(warm.sources, world.task, cache, warm.epochs)


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
