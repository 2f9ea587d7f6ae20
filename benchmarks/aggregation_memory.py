"""Memory a coordinator needs to take the updates of a round in, in models.

    python -m benchmarks.aggregation_memory [--updates 50] [--values 1000000] [--json]

A child process takes updates in that arrive one at a time, as a round does (verify, open, check, fold), and
reports how far its resident memory rose above where it stood before the first: once with sealed updates, once
with bare ones; beside it the way of keeping all updates for one mean at the end.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import psutil

from benchmarks.ingest import SETTINGS, make, schema_for
from common.protocol.answer import Answer, decode_answer
from common.protocol.plan import parse_plan
from common.security.envelope import open_envelope, parse_envelope
from common.security.keys import KeyFolder
from common.security.sealing import Suite
from common.security.statement import SIGNATURE_BYTES
from fl_server.fleet import Kind, Reply
from fl_server.intake import BareIntake, Intake, SealedIntake
from fl_server.keyring import load_envelope, save_envelope
from fl_server.registry import Registry
from fl_server.rounds import Collected, Exchange, train_cohort
from fl_server.rules.registry import make_rule
from fl_server.senders import Senders

WAYS = {
    "sealed": "sealed, folded in as they arrive",
    "bare": "bare, folded in as they arrive",
    "kept": "bare, kept and then averaged",
}


class Devices:
    """A fleet whose answers lie in a folder, so that making them costs the measured process nothing."""

    def __init__(self, folder: Path) -> None:
        self._files = sorted(folder.iterdir())

    def online(self) -> dict[int, str]:
        return {node: path.name for node, path in enumerate(self._files)}

    def ask(
        self, order: bytes, kind: Kind, seconds: float, weights: bytes, nodes: Iterable[int]
    ) -> Iterator[Reply]:
        for node in nodes:
            yield Reply(node, self._files[node].read_bytes())


def write(folder: Path, values: int, updates: int) -> None:
    """All that the measured processes need: a database, a key, a plan, and updates sealed and bare."""
    registry = Registry(folder / "coordinator.db")
    made = make(registry, values, updates, Suite.HYBRID)
    registry.close()
    save_envelope(KeyFolder.create(folder / "keys", None), made.key)
    (folder / "order").write_bytes(made.order)
    for way in ("sealed", "bare"):
        (folder / way).mkdir()
    for device, data in made.updates.items():
        (folder / "sealed" / device).write_bytes(data)
        payload = open_envelope(parse_envelope(data, len(data)), made.identities[device], made.key)
        (folder / "bare" / device).write_bytes(payload)


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


def grow(way: str, folder: Path, values: int) -> float:
    """Growth of this process, in models, while updates come in: "sealed", "bare" or "kept"."""
    schema, senders = schema_for(values), Senders(Registry(folder / "coordinator.db"))
    key = load_envelope(KeyFolder.unlock(folder / "keys", None), Suite.HYBRID)
    order = (folder / "order").read_bytes()
    plan = parse_plan(order[SIGNATURE_BYTES:])
    sealed = SealedIntake(senders, key, plan, order, schema)
    intake: Intake = sealed if way == "sealed" else BareIntake(senders, plan, schema)
    devices = Devices(folder / ("sealed" if way == "sealed" else "bare"))
    cohort = devices.online()
    exchange = Exchange(plan, order, b"", schema, cohort, intake, senders.name)
    collected = Collected()
    peak = Peak()
    if way == "kept":
        replies = devices.ask(order, "train", 0.0, b"", cohort)
        answers = [decode_answer(reply.data, schema) for reply in replies if reply.data is not None]
        kept = [answer.delta for answer in answers if isinstance(answer, Answer)]
        _ = {name: np.mean([update[name] for update in kept], axis=0) for name in schema}
    else:
        rule = make_rule(SETTINGS, schema, len(cohort))
        train_cohort(devices, SETTINGS, exchange, collected, lambda report: None, rule)
        assert not collected.failures, collected.failures[:3]
    time.sleep(0.01)
    return (peak.highest - peak.start) / (4 * sum(int(np.prod(shape)) for shape in schema.values()))


def main() -> None:
    """Measure every way, each in its own process, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=50)
    parser.add_argument("--values", type=int, default=1_000_000, help="float32 values in a model")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        way, folder = options.child
        print(grow(way, Path(folder), options.values))
        return
    grown: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), options.values, options.updates)
        for way in WAYS:
            child = [sys.executable, "-m", "benchmarks.aggregation_memory", "--values", str(options.values)]
            done = subprocess.run(
                [*child, "--child", way, folder], capture_output=True, text=True, check=True
            )
            grown[way] = float(done.stdout)
    print(
        f"{options.updates} updates of {options.values * 4 / 1e6:.0f} MB; growth of resident memory in models"
    )
    for way, label in WAYS.items():
        print(f"  {label:<38} {grown[way]:6.2f}")
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
