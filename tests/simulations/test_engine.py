"""A whole run: the same bits with any number of workers, and however often it was broken off."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
import tomli_w

from common.errors import SimulationError
from common.protocol.release import load_release
from fedaudio.model import verify_folder
from fl_client.listen.recognizer import Recognizer
from simulations.checkpoint import RunFolder
from simulations.engine import simulate
from simulations.progress import Progress
from simulations.results import SimulationResults
from simulations.scenario import Scenario
from tests.processes import ROOT, run_cli, wait_for
from tests.simulations.made_pool import SCAFFOLD, digest, quick

PRIVATE = {"noise_multiplier": 1.0, "delta": 1e-3}
TIMES = {"seconds", "overhead_seconds"}
"""What a run can tell of a round that another cannot."""
PRIVATELY = {
    "attack": {"kind": "stale", "share": 0.2},
    "behaviour": {"dropout": 0.1, "speed_spread": 0.5},
    "privacy": PRIVATE,
    "seeded_noise": True,
    **SCAFFOLD,
}
ROBUSTLY = {"attack": {"kind": "alie", "share": 0.4}, "recipe": {"algorithm": "fedper", "batch_size": 2}}
"""Of five devices the default rule allows for one attacker, so it mixes and trims; two look at all others."""


@pytest.fixture(params=[PRIVATELY, ROBUSTLY], ids=["privately", "robustly"])
def eventful(request: pytest.FixtureRequest, small: Scenario) -> Scenario:
    """Everything that is remembered from round to round, in four short rounds."""
    rounds = {"cohort": 5, "holdout": 0.3}
    return quick(small, number_of_rounds=4, optimizer={"kind": "fedadam"}, rounds=rounds, **request.param)


def facts(folder: Path) -> tuple[object, ...]:
    """All of a run in `folder` that another run of the same must have in common with it."""
    at = RunFolder(folder, Scenario.model_validate_json((folder / "scenario.json").read_bytes()), 0).open(
        True
    )
    assert at
    facts = at.facts.model_dump(exclude={"time", "seconds"})
    rounds = [held.model_dump(exclude=TIMES) for held in at.rounds]
    found = SimulationResults.model_validate_json((folder / "results.json").read_bytes())
    ends = found.confusion, found.unseen, found.devices, found.final
    return digest(at.weights), at.memory.encode(), facts, rounds, ends


def command(scenario: Scenario, folder: Path, cache: Path, *more: str) -> tuple[list[str], Path]:
    """Arguments of `fedaudio` that run `scenario`, and where the run with seed 0 will be."""
    folder.mkdir(exist_ok=True)
    document = scenario.model_dump(mode="json", exclude_unset=True, exclude_none=True)
    (folder / "scenario.toml").write_bytes(tomli_w.dumps(document).encode())
    options = ["--workers", "2", "--out", str(folder / "out"), "--cache", str(cache), "--json", *more]
    return ["simulate", "run", str(folder / "scenario.toml"), *options], folder / "out" / "seed-0"


def spawn(arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "fedaudio", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )


def over(process: subprocess.Popen[bytes], run: Path, least: int) -> None:
    """Wait until more than `least` rounds are over, or all is."""
    wait_for(lambda: rounds_in(run) > least or process.poll() is not None, f"round {least + 1}")


def kill_after(least: int, process: subprocess.Popen[bytes], run: Path, rng: random.Random) -> None:
    """Kill a run when more than `least` rounds are over; where exactly in the next is left to chance."""
    over(process, run, least)
    workers = psutil.Process(process.pid).children()
    wait_for(lambda: rng.random() < 0.3 or process.poll() is not None, "a moment")
    process.kill()
    process.communicate()
    wait_for(lambda: not any(worker.is_running() for worker in workers), "the workers' end")


def rounds_in(folder: Path) -> int:
    log = folder / "rounds.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def test_the_number_of_workers_changes_nothing(eventful: Scenario, tmp_path: Path, cache: Path) -> None:
    ends = []
    for workers in (1, 2, 3):
        folder = tmp_path / str(workers)
        simulate(eventful, 0, folder, workers=workers, cache=cache)
        ends.append(facts(folder))
    assert ends[0] == ends[1] == ends[2]
    assert not psutil.Process().children()


def test_what_a_run_leaves_behind(small: Scenario, tmp_path: Path, cache: Path) -> None:
    scenario, told = quick(small, number_of_rounds=2), list[Progress]()
    folder = tmp_path / "run"
    results = simulate(scenario, 0, folder, cache=cache, watch=told.append)
    assert SimulationResults.model_validate_json((folder / "results.json").read_bytes()) == results
    assert Scenario.model_validate_json((folder / "scenario.json").read_bytes()) == scenario
    assert rounds_in(folder) == len(results.rounds) == 2
    assert (results.population, len(results.devices), results.interrupted) == (6, 6, False)
    assert sum(map(sum, results.confusion)) == sum(speaker.clips for speaker in results.unseen) == 12
    correct = sum(results.confusion[label][label] for label in range(2))
    assert results.final.accuracy_unseen == correct / 12 == results.rounds[-1].accuracy_unseen
    assert [speaker.name for speaker in results.unseen] == sorted(results.speakers.unseen)

    manifest, _ = verify_folder(folder / "release")
    assert manifest.task.labels == results.labels
    assert manifest.participants == results.rounds[-1].participants
    assert Recognizer(load_release(folder / "release")).version == manifest.version
    allowed = {"results.json", "scenario.json", "rounds.jsonl", "checkpoint", "release", "world"}
    assert {path.name for path in folder.iterdir()} == allowed

    assert [progress.round for progress in told if progress.doing == "over"] == [1, 2]
    assert told[-1].doing == "finishing"
    answered = [
        progress.answered for progress in told if progress.doing == "training" and progress.round == 1
    ]
    assert answered[:6] == [1, 2, 3, 4, 5, 6]


def test_a_folder_is_one_runs(small: Scenario, tmp_path: Path, cache: Path) -> None:
    scenario = quick(small, number_of_rounds=1)
    simulate(scenario, 0, tmp_path, cache=cache)
    for other, seed, resume in ((scenario, 0, False), (scenario, 1, True), (small, 0, True)):
        with pytest.raises(SimulationError, match="FA-9002"):
            simulate(other, seed, tmp_path, cache=cache, resume=resume)
    with RunFolder(tmp_path, scenario, 0).alone(), pytest.raises(SimulationError, match="FA-9003"):
        simulate(scenario, 0, tmp_path, cache=cache, resume=True)
    newest = tmp_path / "checkpoint" / "newest.safetensors"
    whole = newest.read_bytes()
    for damaged in (b"", whole[:100], whole[: len(whole) // 2]):
        newest.write_bytes(damaged)
        with pytest.raises(SimulationError, match="FA-9004"):
            simulate(scenario, 0, tmp_path, cache=cache, resume=True)
    newest.write_bytes(whole)
    (tmp_path / "rounds.jsonl").unlink()
    with pytest.raises(SimulationError, match="FA-9004"):
        simulate(scenario, 0, tmp_path, cache=cache, resume=True)


def test_other_clips_are_another_simulation(
    small: Scenario, collection: Path, tmp_path: Path, cache: Path
) -> None:
    copy = shutil.copytree(collection, tmp_path / "clips")
    scenario = quick(small, number_of_rounds=1, data={"path": copy})
    simulate(scenario, 0, tmp_path / "run", cache=cache, release=False)
    assert not (tmp_path / "run" / "release").exists()
    simulate(scenario, 0, tmp_path / "run", cache=cache, resume=True, release=False)
    shutil.copyfile(copy / "ja" / "s1_nohash_0.wav", copy / "ja" / "s0_nohash_0.wav")
    with pytest.raises(SimulationError, match=r"FA-9002.*clips"):
        simulate(scenario, 0, tmp_path / "run", cache=cache, resume=True, release=False)


def test_no_more_workers_than_devices_in_a_round(small: Scenario, tmp_path: Path, cache: Path) -> None:
    scenario = quick(small, number_of_rounds=1, rounds={"cohort": 2})
    results = simulate(scenario, 0, tmp_path, workers=9, cache=cache, release=False)
    assert results.workers == 2
    assert results.seconds >= results.time.preparing + results.time.testing > 0


def test_failures_are_counted_and_not_told_one_by_one(
    small: Scenario, tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scenario = quick(small, number_of_rounds=1, privacy={"noise_multiplier": 0.001})
    results = simulate(scenario, 0, tmp_path, cache=cache)
    assert (results.rounds[0].failures, results.rounds[0].void) == ({"FA-7005": 6}, "FA-5004")
    assert not caplog.records


def test_ctrl_c_before_the_first_round(small: Scenario, tmp_path: Path) -> None:
    arguments, run = command(quick(small), tmp_path, tmp_path / "cache")
    process = spawn(arguments)
    wait_for((run / "checkpoint" / ".lock").exists, "the run's begin")
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130, err
    assert json.loads(out)["seeds"] == []
    assert b"nothing of it was computed yet" in err
    assert b"Traceback" not in err


def test_no_such_backend(small: Scenario, tmp_path: Path, cache: Path) -> None:
    with pytest.raises(SimulationError, match="FA-9005"):
        simulate(quick(small), 0, tmp_path, cache=cache, backend="cloud")


@pytest.mark.slow
def test_killed_again_and_again_it_ends_as_if_unbroken(
    eventful: Scenario, tmp_path: Path, cache: Path
) -> None:
    """SIGKILL to the whole run, somewhere in what comes after each of its rounds."""
    simulate(eventful, 0, tmp_path / "unbroken", cache=cache)
    arguments, run = command(eventful, tmp_path / "broken", cache, "--resume")
    rng = random.Random(5)
    for least in range(4):
        kill_after(least, spawn(arguments), run, rng)
    assert run_cli(*arguments, patience=300).returncode == 0
    assert facts(run) == facts(tmp_path / "unbroken")


def test_ctrl_c_leaves_results_to_go_on_from(eventful: Scenario, tmp_path: Path, cache: Path) -> None:
    simulate(eventful, 0, tmp_path / "unbroken", cache=cache)
    arguments, run = command(eventful, tmp_path / "broken", cache)
    process = spawn(arguments)
    over(process, run, 0)
    # As a terminal sends it: to all processes of the run at once.
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130, err
    results = SimulationResults.model_validate_json((run / "results.json").read_bytes())
    assert results.interrupted
    assert 1 <= len(results.rounds) < 4
    assert json.loads(out)["seeds"][0]["rounds"] == len(results.rounds)
    assert run_cli(*arguments, "--resume", patience=300).returncode == 0
    assert facts(run) == facts(tmp_path / "unbroken")
    assert not SimulationResults.model_validate_json((run / "results.json").read_bytes()).interrupted


def test_a_worker_that_is_killed_changes_nothing(eventful: Scenario, tmp_path: Path, cache: Path) -> None:
    simulate(eventful, 0, tmp_path / "quiet", cache=cache)
    killed: set[int] = set()

    def kill_one(progress: Progress) -> None:
        if progress.doing == "training" and progress.round not in killed:
            killed.add(progress.round)
            psutil.Process().children()[0].kill()

    simulate(eventful, 0, tmp_path / "disturbed", workers=2, cache=cache, watch=kill_one)
    assert killed == {1, 2, 3, 4}
    assert facts(tmp_path / "disturbed") == facts(tmp_path / "quiet")
    assert not psutil.Process().children()


def test_several_seeds_are_summed_up(small: Scenario, tmp_path: Path, cache: Path) -> None:
    arguments, run = command(quick(small, number_of_rounds=1), tmp_path, cache, "--seeds", "2", "--seed", "3")
    done = run_cli(*arguments, patience=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [seed["seed"] for seed in found["seeds"]] == [3, 4]
    accuracies = [
        SimulationResults.model_validate_json((run.with_name(f"seed-{seed}") / "results.json").read_bytes())
        for seed in (3, 4)
    ]
    assert found["mean"] == pytest.approx(sum(one.final.accuracy_unseen for one in accuracies) / 2)
    assert found["spread"] is not None
