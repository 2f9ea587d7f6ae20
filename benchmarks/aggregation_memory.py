"""Memory a coordinator needs to fold the updates of a round in, in models.

    python -m benchmarks.aggregation_memory [--updates 50] [--values 1000000] [--json]

A child process folds updates in that arrive one at a time, as a round does (decode, check, fold), and reports
how far its resident memory rose above where it stood before the first; beside it the way of
keeping all updates for one mean at the end.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import psutil

from common.protocol.answer import Report, encode_answer
from common.protocol.plan import Plan
from common.protocol.tensors import Schema, Weights, decode_weights
from common.task import Task
from fl_server.fleet import Reply
from fl_server.rounds import Collected, train_cohort
from fl_server.settings import ServerSettings

SETTINGS = ServerSettings(task=Task(labels=("a", "b")))
PLAN = Plan(run="bench", round=1, task=SETTINGS.task, base="0" * 64)


def schema_for(values: int) -> Schema:
    """A few tensors with about `values` values in all."""
    side = int((values // 4) ** 0.5)
    return {f"layer{i}": (side, side) for i in range(4)}


class Devices:
    """A fleet whose answers lie in a folder, so that making them costs the measured process nothing."""

    def __init__(self, folder: Path) -> None:
        self._files = sorted(folder.glob("*.update"))

    def online(self) -> list[int]:
        return list(range(len(self._files)))

    def ask(self, plan: Plan, weights: bytes, nodes: Sequence[int]) -> Iterator[Reply]:
        for node in nodes:
            yield Reply(node, self._files[node].read_bytes())


def write_updates(folder: Path, schema: Schema, updates: int) -> None:
    """One answer to `PLAN` a file."""
    rng = np.random.default_rng(0)
    for number in range(updates):
        delta: Weights = {
            name: rng.standard_normal(shape, np.float32) * np.float32(1e-3) for name, shape in schema.items()
        }
        report = Report(
            run=PLAN.run, round=PLAN.round, kind="train", base=PLAN.base, device=f"d{number}", clips=10
        )
        (folder / f"{number:04d}.update").write_bytes(encode_answer(report, delta))


class Peak:
    """The highest resident memory of this process, sampled in a thread."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self.start = self.highest = self._process.memory_info().rss
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self.highest = max(self.highest, self._process.memory_info().rss)
            time.sleep(0.0005)


def grow(way: str, folder: Path, schema: Schema) -> float:
    """Growth of this process, in models, while the updates in `folder` come in."""
    size = 4 * sum(int(np.prod(shape)) for shape in schema.values())
    devices = Devices(folder)
    peak = Peak()
    if way == "folded":
        train_cohort(devices, SETTINGS, PLAN, b"", schema, devices.online(), Collected(), lambda report: None)
    else:
        kept = [
            decode_weights(reply.data, schema)
            for reply in devices.ask(PLAN, b"", devices.online())
            if reply.data is not None
        ]
        _ = {name: np.mean([update[name] for update in kept], axis=0) for name in schema}
    time.sleep(0.01)
    return (peak.highest - peak.start) / size


def main() -> None:
    """Measure both ways, each in its own process, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=50)
    parser.add_argument("--values", type=int, default=1_000_000, help="float32 values in a model")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    schema = schema_for(options.values)
    if options.child:
        way, folder = options.child
        print(grow(way, Path(folder), schema))
        return
    grown: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_updates(Path(folder), schema, options.updates)
        for way in ("folded", "kept"):
            child = [sys.executable, "-m", "benchmarks.aggregation_memory", "--values", str(options.values)]
            done = subprocess.run(
                [*child, "--child", way, folder], capture_output=True, text=True, check=True
            )
            grown[way] = float(done.stdout)
    print(
        f"{options.updates} updates of {options.values * 4 / 1e6:.0f} MB; growth of resident memory in models"
    )
    print(f"  folded in as they arrive   {grown['folded']:6.2f}")
    print(f"  kept, then averaged        {grown['kept']:6.2f}")
    if options.json:
        print(
            json.dumps(
                {
                    "benchmark": "aggregation_memory",
                    "updates": options.updates,
                    "values": options.values,
                    "growth_in_models": grown,
                }
            )
        )


if __name__ == "__main__":
    main()
