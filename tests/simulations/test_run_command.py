"""`fedaudio simulate`, as a person and a shell meet it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from statistics import fmean, stdev

import pytest
from rich.console import Console

from simulations.load import shipped_scenarios
from simulations.options import complete
from simulations.progress import Progress
from simulations.scenario import Scenario
from simulations.view import RunView, void_rounds
from tests.processes import PATIENCE_SECONDS, run_cli, wait_for
from tests.simulations.made_pool import quick
from tests.simulations.made_results import made_results
from tests.simulations.run_process import command, over, spawn, written


def test_the_shell_knows_the_scenarios() -> None:
    assert complete("") == list(shipped_scenarios())
    assert complete("keywords-a") == ["keywords-arabic"]
    assert complete("nothing") == []


def test_the_scenarios_are_listed() -> None:
    listed = run_cli("simulate", "list", "--json")
    assert json.loads(listed.stdout) == shipped_scenarios()


def test_a_scenario_that_is_not_there() -> None:
    failed = run_cli("simulate", "run", "keywords-arabik")
    assert failed.returncode == 9
    assert failed.stderr.startswith("FA-9100:")
    assert "keywords-arabic" in failed.stderr


def test_a_line_a_round_where_there_is_no_terminal() -> None:
    console = Console(record=True, width=200, force_terminal=False, quiet=False)
    with RunView(console, 3) as view:
        view.update(Progress("preparing", 2))
        view.update(Progress("learning", 2, sources=("babble", "fsdd")))
        for number in (1, 2):
            view.update(Progress("training", 2, number, 5, 10, 0.4))
            view.update(Progress("over", 2, number, 10, 10, 0.5, epsilon=1.25, attack_success=0.125))
        view.update(Progress("over", 3, 3, 0, 10, 0.5, void="FA-5004"))
        view.update(Progress("finishing", 3, 3))
    assert console.export_text().splitlines() == [
        "seed 3: learning from babble, fsdd",
        *(f"seed 3, round {number}/2: unseen 0.500, epsilon 1.25, attack 0.125" for number in (1, 2)),
        "seed 3, round 3/3: void (FA-5004), unseen 0.500",
    ]


def test_void_rounds_are_told_in_one_line() -> None:
    results = made_results(rounds=34)
    assert void_rounds([results]) == "2 of 34 rounds were void and changed nothing: 2 with FA-5106."
    assert void_rounds([made_results(rounds=3)]) is None


def test_a_bar_on_a_terminal() -> None:
    console = Console(record=True, width=200, force_terminal=True)
    with RunView(console, 0) as view:
        view.update(Progress("training", 4, 3, 5, 10, 0.75, epsilon=1.5, seconds_left=3725.0))
        view._bar.refresh()
    shown = console.export_text()
    for part in ("seed 0, round 3/4", "62%", "unseen 0.750", "epsilon 1.50", "1:02:05 left"):
        assert part in shown


def test_ctrl_c_before_the_first_round(small: Scenario, tmp_path: Path) -> None:
    arguments, run = command(quick(small), tmp_path, tmp_path / "cache", "--workers", "1")
    process = spawn(arguments)
    wait_for((run / "checkpoint" / ".lock").exists, "the run's begin")
    status, out, err = interrupted(process)
    assert (status, json.loads(out)["seeds"]) == (130, [])
    assert "nothing of it was computed yet" in err


def test_ctrl_c_sums_up_the_seeds_that_there_are(small: Scenario, tmp_path: Path, cache: Path) -> None:
    """In the second seed, which has so many rounds that it is not over before it is stopped."""
    scenario = quick(small, number_of_rounds=60, rounds={"cohort": 2, "evaluate": False}, evaluate_every=60)
    arguments, run = command(scenario, tmp_path, cache, "--workers", "1")
    folders = [run.with_name(f"seed-{seed}") for seed in (3, 4)]
    process = spawn([*arguments, "--seed", "3", "--seeds", "2"])
    over(process, folders[1], 0)
    status, out, err = interrupted(process)
    assert status == 130, err
    whole, begun = map(written, folders)
    assert (whole.interrupted, len(whole.rounds)) == (False, 60)
    assert begun.interrupted
    assert 1 <= len(begun.rounds) < 60
    found = json.loads(out)
    assert [(seed["seed"], seed["rounds"], seed["interrupted"]) for seed in found["seeds"]] == [
        (3, 60, False),
        (4, len(begun.rounds), True),
    ]
    accuracies = [run.final.accuracy_unseen for run in (whole, begun)]
    assert found["mean"] == pytest.approx(fmean(accuracies))
    assert found["spread"] == pytest.approx(stdev(accuracies))

    done = run_cli(*arguments, "--seed", "4", "--resume", patience=300)
    assert done.returncode == 0, done.stderr
    ended = written(folders[1])
    assert (ended.interrupted, ended.rounds[: len(begun.rounds)]) == (False, begun.rounds)
    assert [seed["rounds"] for seed in json.loads(done.stdout)["seeds"]] == [60]


def interrupted(process: subprocess.Popen[bytes]) -> tuple[int, str, str]:
    """Status, standard output and standard error after Ctrl-C, which a terminal sends to a whole group."""
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert b"Traceback" not in err
    return process.returncode, out.decode(), err.decode()
