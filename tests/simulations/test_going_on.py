"""A whole run: the same bits with any number of workers, and however often it was broken off."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import psutil
import pytest

from simulations.checkpoint import RunFolder
from simulations.engine import simulate
from simulations.progress import Progress
from simulations.scenario import Scenario
from tests.processes import run_cli, wait_for
from tests.simulations.made_pool import SCAFFOLD, digest, quick
from tests.simulations.run_process import command, over, spawn, written

PRIVATE = {"noise_multiplier": 1.0, "delta": 1e-3}
TIMES = {"seconds", "overhead_seconds"}
"""What a run can tell of a round that another cannot."""
PRIVATELY = {
    "attack": {"kind": "stale", "share": 0.2},
    "behaviour": {"dropout": 0.1, "speed_spread": 0.5},
    "privacy": PRIVATE,
    "seeded_noise": True,
    **SCAFFOLD,
    "recipe": {**SCAFFOLD["recipe"], "trained": "all"},
}
ROBUSTLY = {"attack": {"kind": "alie", "share": 0.4}, "recipe": {"algorithm": "fedper", "batch_size": 2}}
"""Of five devices the default rule allows for one attacker, so it mixes and trims; two look at all others."""


@pytest.fixture(scope="module", params=[PRIVATELY, ROBUSTLY], ids=["privately", "robustly"])
def eventful(request: pytest.FixtureRequest, small: Scenario) -> Scenario:
    """Everything that is remembered from round to round, in three short rounds."""
    rounds = {"cohort": 5, "holdout": 0.3}
    return quick(small, number_of_rounds=3, optimizer={"kind": "fedadam"}, rounds=rounds, **request.param)


@pytest.fixture(scope="module")
def unbroken(eventful: Scenario, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    """Facts of an eventful run with one worker."""
    folder = tmp_path_factory.mktemp("unbroken")
    simulate(eventful, 0, folder, cache=cache, release=False)
    return facts(folder)


def facts(folder: Path) -> tuple[object, ...]:
    """All of a run in `folder` that another run of the same must have in common with it."""
    at = RunFolder(folder, Scenario.model_validate_json((folder / "scenario.json").read_bytes()), 0).open(
        True
    )
    assert at
    facts = at.facts.model_dump(exclude={"time", "seconds"})
    rounds = [held.model_dump(exclude=TIMES) for held in at.rounds]
    found = written(folder)
    ends = found.confusion, found.unseen, found.devices, found.final
    return digest(at.weights), at.memory.encode(), facts, rounds, ends


def test_neither_the_number_of_workers_nor_the_death_of_one_changes_anything(
    eventful: Scenario, unbroken: tuple[object, ...], tmp_path: Path, cache: Path
) -> None:
    """In the second round devices have kept something, and the next worker finds it as it was."""
    killed: list[int] = []

    def kill_one(progress: Progress) -> None:
        if (progress.doing, progress.round) == ("training", 2) and not killed:
            worker = psutil.Process().children()[0]
            worker.kill()
            killed.append(worker.pid)

    simulate(eventful, 0, tmp_path, workers=3, cache=cache, release=False, watch=kill_one)
    assert killed
    assert facts(tmp_path) == unbroken
    assert not psutil.Process().children()


def test_broken_off_it_goes_on_as_if_unbroken(
    eventful: Scenario, unbroken: tuple[object, ...], tmp_path: Path, cache: Path
) -> None:
    """In the middle of the second round, in which some devices have already put away what they keep."""

    def break_off(progress: Progress) -> None:
        if (progress.doing, progress.round, progress.answered) == ("training", 2, 2):
            raise KeyboardInterrupt

    results = simulate(eventful, 0, tmp_path, workers=2, cache=cache, release=False, watch=break_off)
    assert (results.interrupted, len(results.rounds)) == (True, 1)
    assert written(tmp_path) == results
    assert not simulate(eventful, 0, tmp_path, cache=cache, release=False, resume=True).interrupted
    assert facts(tmp_path) == unbroken


def kill_after(least: int, process: subprocess.Popen[bytes], run: Path, rng: random.Random) -> None:
    """Kill a run when more than `least` rounds are over; where exactly in the next is left to chance."""
    over(process, run, least)
    workers = psutil.Process(process.pid).children()
    wait_for(lambda: rng.random() < 0.3 or process.poll() is not None, "a moment")
    process.kill()
    process.communicate()
    wait_for(lambda: not any(worker.is_running() for worker in workers), "the workers' end")


# Slow, for what a run goes on from is shown above; this is about where in a round it ends, many times over.
@pytest.mark.slow
def test_killed_again_and_again_it_ends_as_if_unbroken(
    eventful: Scenario, unbroken: tuple[object, ...], tmp_path: Path, cache: Path
) -> None:
    """SIGKILL to the whole run, somewhere in what comes after each of its rounds."""
    arguments, run = command(eventful, tmp_path, cache, "--resume", "--workers", "2")
    rng = random.Random(5)
    for least in range(3):
        kill_after(least, spawn(arguments), run, rng)
    assert run_cli(*arguments, patience=300).returncode == 0
    assert facts(run) == unbroken
