"""Simulated devices a second, against pfl-research and Flower with Ray, and what a round costs beside
training.

    python -m benchmarks.simulation_speed [--rounds 20] [--repeats 3] [--workers 2] [--devices 500]
        [--cohort 50] [--environments DIR] [--only NAME ...] [--json]

All train the very same module from the same weights on the same clips (40 x 98 features, 20 clips a device,
21,652 parameters), one epoch of plain SGD in batches of 10, and take the plain mean; one thread a process.
All train the same devices in a round; each shuffles a device's clips for itself or not at all, so accuracies
after as many rounds agree but for little. They take turns; a rate is of the median round after the first.
"pfl-plain" is pfl with the same network written with torch's own layers, as by one who has not our module.
pfl-research runs in an environment of its own under DIR, which is made if it is not there, with the same
version of torch; who cannot be had is left out, with the reason.

The share is of a device's work, from the order to the bytes of its answer, against a bare loop over batches
that are ready as tensors; with the default augmentation too, which makes its features anew each time.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.peers.experiment import Experiment
from benchmarks.peers.share import share_of_round
from fl_server.rounds import draw_cohort

ROOT = Path(__file__).resolve().parent.parent
GOALS = {"pfl": 1.3, "pfl-plain": 1.3, "flower": 4.0}
SHARE_GOAL = 0.05
PATIENCE_SECONDS = 1800.0


class NotHereError(Exception):
    """A peer cannot be had; says why."""


@dataclass(frozen=True)
class Run:
    """One run of one of them.

    Args:
        first: seconds from its start to the end of the first round.
        round: seconds of the median round after that.
    """

    first: float
    round: float
    accuracy: float


def run_fedaudio(folder: Path, options: argparse.Namespace) -> Run:
    """Ours, with its engine's workers."""
    return _read(_start([sys.executable], "fedaudio_run", folder, options.workers))


def run_flower(folder: Path, options: argparse.Namespace) -> Run:
    """Flower's simulation with as many Ray actors, in our own environment."""
    if importlib.util.find_spec("ray") is None:
        raise NotHereError("Ray is not installed; it comes with the extra `ray`")
    settings = {
        "EXPERIMENT_FOLDER": str(folder),
        "FLWR_HOME": str(folder / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
    }
    return _read(_start([sys.executable], "flower_run", folder, options.workers, settings))


def run_pfl(folder: Path, options: argparse.Namespace, model: str = "ours") -> Run:
    """pfl-research's simulation with as many processes, which find each other as its documentation says."""
    python = pfl_python(options.environments)
    addresses = ",".join(f"localhost:{_free_port()}" for _ in range(options.workers))
    processes = []
    for rank in range(options.workers):
        settings = {"PFL_WORKER_ADDRESSES": addresses, "PFL_WORKER_RANK": str(rank)}
        processes.append(_start([str(python), "-W", "ignore"], "pfl_run", folder, model, settings))
    runs = [process.communicate(timeout=PATIENCE_SECONDS) for process in processes]
    return _outcome(processes[0].returncode, *runs[0])


RUNNERS: Mapping[str, Callable[[Path, argparse.Namespace], Run]] = {
    "fedaudio": run_fedaudio,
    "pfl": run_pfl,
    "pfl-plain": partial(run_pfl, model="plain"),
    "flower": run_flower,
}


def pfl_python(environments: Path) -> Path:
    """The interpreter of an environment with pfl-research, made now if it is not there."""
    import torch

    folder = environments / "pfl"
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    wanted = torch.__version__.split("+")[0]
    check = f"import pfl, pydantic, torch; assert torch.__version__.startswith({wanted!r})"
    if subprocess.run([python, "-c", check], check=False, capture_output=True).returncode:
        packages = ["pfl==0.6.0", f"torch=={wanted}", "pydantic"]
        install = [python, "-m", "pip", "install", "--quiet", *packages]
        done = subprocess.run(install, check=False, capture_output=True, text=True)
        if done.returncode:
            raise NotHereError(f"pfl 0.6.0 cannot be installed: {done.stderr.strip()[-200:]}")
    return python


def _start(
    python: Sequence[str], name: str, folder: Path, last: object, settings: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*python, "-m", f"benchmarks.peers.{name}", str(folder), str(time.time()), str(last)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | dict(settings or {}),
    )


def _read(process: subprocess.Popen[str]) -> Run:
    output, errors = process.communicate(timeout=PATIENCE_SECONDS)
    return _outcome(process.returncode, output, errors)


def _outcome(status: int, output: str, errors: str) -> Run:
    lines = [line for line in output.splitlines() if line.startswith("{")]
    if status or not lines:
        raise NotHereError(f"it ended with status {status}: {errors.strip()[-300:]}")
    told = json.loads(lines[-1])
    return Run(told["first_s"], statistics.median(told["rounds_s"]), told["accuracy"])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def compare(options: argparse.Namespace) -> dict[str, list[Run]]:
    """Runs of each, taken in turns."""
    runs: dict[str, list[Run]] = {name: [] for name in options.only}
    for _ in range(options.repeats):
        for name in list(runs):
            with tempfile.TemporaryDirectory() as folder:
                experiment = Experiment(options.devices, cohort=options.cohort, rounds=options.rounds)
                experiment.save(Path(folder), cohorts_of(experiment))
                try:
                    runs[name].append(RUNNERS[name](Path(folder), options))
                except NotHereError as reason:
                    print(f"{name} is left out: {reason}")
                    del runs[name]
    return runs


def cohorts_of(experiment: Experiment) -> list[list[int]]:
    """The devices our engine will draw for each round."""
    online = dict.fromkeys(range(experiment.devices), "")
    rounds = range(1, experiment.rounds + 1)
    return [list(draw_cohort(online, experiment.cohort, experiment.seed, number)) for number in rounds]


def report(runs: Mapping[str, Sequence[Run]], cohort: int) -> list[dict[str, object]]:
    """Print a table, and the same as rows."""
    rates = {name: cohort / statistics.median(run.round for run in some) for name, some in runs.items()}
    rows: list[dict[str, object]] = []
    print(f"{'':10} devices/s   round, s (of each run)   first round after, s   accuracy   ours is faster by")
    for name, some in runs.items():
        ratio = rates["fedaudio"] / rates[name] if "fedaudio" in rates else None
        accuracy, first = (
            statistics.median(getattr(run, field) for run in some) for field in ("accuracy", "first")
        )
        seconds = " ".join(f"{run.round:.3f}" for run in some)
        goal = f"{ratio:.2f} x (goal: {GOALS[name]})" if ratio is not None and name in GOALS else ""
        print(f"{name:10} {rates[name]:9.1f}   {seconds:22}   {first:20.1f}   {accuracy:8.3f}   {goal}")
        rows.append(
            {
                "what": name,
                "devices_per_s": rates[name],
                "round_s": [run.round for run in some],
                "first_s": first,
                "accuracy": accuracy,
                "ratio": ratio,
            }
        )
    return rows


def main() -> None:
    """Compare, measure the share, and print both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--devices", type=int, default=500)
    parser.add_argument("--cohort", type=int, default=50)
    parser.add_argument(
        "--environments", type=Path, default=Path.home() / ".cache" / "fedaudio" / "environments"
    )
    parser.add_argument("--only", nargs="*", choices=RUNNERS, default=list(RUNNERS))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = report(compare(options), options.cohort)
    shares = share_of_round()
    print(
        f"share of a device's work not spent in the model's own step: {shares.still:.1%} "
        f"(goal: {SHARE_GOAL:.0%}); with the default augmentation {shares.augmented:.1%}"
    )
    if options.json:
        share = {"still": shares.still, "augmented": shares.augmented}
        print(json.dumps({"benchmark": "simulation_speed", "results": rows, "share": share}))


if __name__ == "__main__":
    main()
