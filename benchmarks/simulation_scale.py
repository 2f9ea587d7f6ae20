"""What a simulation of 10 000 devices takes beside one of 100: seconds a round, and memory.

    python -m benchmarks.simulation_scale [--devices 100,1000,10000] [--rounds 3] [--workers 2] [--json]

Runs the scenario synthetic-10000 (twenty clips a device, 200 of the devices in a round) with so many devices,
each in a process of its own, and samples memory while rounds are held: of the process that holds them what
is its alone (USS), of workers their share of what they have in common (PSS). Files that are mapped count as
far as they are in memory.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import psutil

from simulations.engine import simulate
from simulations.load import load_scenario
from simulations.progress import Progress

COHORT = 200


class Peak:
    """Highest memory of this process and of its children, in bytes, sampled in a thread."""

    def __init__(self) -> None:
        self.own = self.workers = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def watch(self, progress: Progress) -> None:
        """Stop when the last round is over: what is made of the results is not about scale."""
        if progress.doing == "finishing":
            self._over.set()
            self._thread.join()

    def _sample(self) -> None:
        process = psutil.Process()
        while not self._over.wait(0.2):
            self.own = max(self.own, process.memory_full_info().uss)
            shares = [child.memory_full_info().pss for child in process.children()]
            self.workers = max(self.workers, sum(shares))


def measure(devices: int, rounds: int, workers: int, folder: Path, cache: Path) -> dict[str, float]:
    """One run in this process."""
    changes = [
        f"population.devices={devices}",
        f"rounds.cohort={min(COHORT, devices)}",
        f"number_of_rounds={rounds}",
        f"evaluate_every={rounds}",
    ]
    scenario, peak = load_scenario("synthetic-10000", changes), Peak()
    results = simulate(scenario, 0, folder, workers=workers, cache=cache, watch=peak.watch)
    held = results.rounds
    busy = results.time.training / (workers * sum(one.seconds for one in held))
    return {
        "devices": devices,
        "cohort": held[0].cohort,
        "parameters": results.parameters,
        "seconds_per_round": statistics.median(one.seconds for one in held),
        "devices_per_second": statistics.median(one.participants / one.seconds for one in held),
        "busy": busy,
        "preparing_seconds": results.time.preparing,
        "parent_mb": peak.own / 1e6,
        "workers_mb": peak.workers / 1e6,
    }


def run(devices: int, rounds: int, workers: int, cache: Path) -> dict[str, float]:
    """The same in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = [str(devices), str(rounds), str(workers), folder, str(cache)]
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.simulation_scale", "--child", *arguments],
            stdout=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            check=True,
        )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--devices", default="100,1000,10000")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        sizes = [int(size) for size in options.devices.split(",")]
        rows = [run(size, options.rounds, options.workers, Path(cache)) for size in sizes]
    print("devices  cohort  s/round  devices/s    busy  parent MB  workers MB")
    for row in rows:
        print(
            f"{row['devices']:7.0f} {row['cohort']:7.0f} {row['seconds_per_round']:8.2f} "
            f"{row['devices_per_second']:10.1f} {row['busy']:7.1%} "
            f"{row['parent_mb']:10.1f} {row['workers_mb']:11.1f}"
        )
    growth = {key: rows[-1][key] / rows[0][key] for key in ("parent_mb", "workers_mb")}
    print(
        f"{sizes[-1]} devices need {growth['parent_mb']:.2f} times the memory of {sizes[0]} (parent), "
        f"{growth['workers_mb']:.2f} times (workers)."
    )
    if options.json:
        found = {"benchmark": "simulation_scale", "workers": options.workers, "rounds": options.rounds}
        print(json.dumps(found | {"sizes": rows, "growth": growth}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        size, count, processes = map(int, sys.argv[2:5])
        print(json.dumps(measure(size, count, processes, Path(sys.argv[5]), Path(sys.argv[6]))))
    else:
        main()
