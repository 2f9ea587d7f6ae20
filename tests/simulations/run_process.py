"""Runs in processes of their own, and how far they are."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import tomli_w

from simulations.results import SimulationResults
from simulations.scenario import Scenario
from tests.processes import ROOT, wait_for


def command(scenario: Scenario, folder: Path, cache: Path, *more: str) -> tuple[list[str], Path]:
    """Arguments of `fedaudio` that run `scenario`, and where the run with seed 0 will be."""
    folder.mkdir(exist_ok=True)
    document = scenario.model_dump(mode="json", exclude_unset=True, exclude_none=True)
    (folder / "scenario.toml").write_bytes(tomli_w.dumps(document).encode())
    options = ["--out", str(folder / "out"), "--cache", str(cache), "--json", *more]
    return ["simulate", "run", str(folder / "scenario.toml"), *options], folder / "out" / "seed-0"


def spawn(arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    """`fedaudio arguments`, in a group of its own."""
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
    wait_for(lambda: rounds_in(run) > least or process.poll() is not None, f"round {least + 1}", patience=200)


def rounds_in(folder: Path) -> int:
    log = folder / "rounds.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def written(run: Path) -> SimulationResults:
    return SimulationResults.model_validate_json((run / "results.json").read_bytes())
