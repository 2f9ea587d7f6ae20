"""Time of a round in which nobody trains: with security, without, and stock Flower, all in the same run.

    python -m benchmarks.round_overhead [--devices 2 10] [--rounds 8] [--repeats 3] [--no-stock] [--json]

Ours: `fedaudio server start` and `fedaudio client start` as real processes, a plan of 0 optimiser steps, no
evaluation; a round includes sending the model, the answers, the step, and writing the release. Without
security is `--insecure-loopback`: no TLS, plans not signed, answers not sealed. The two take turns.
Flower's: its SuperLink and SuperNodes as they come, FedAvg, without evaluation. The first round, in which
processes load, is shown apart; the rest is the median.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from hashlib import sha256
from pathlib import Path

from common.data.clips import Clips
from common.data.importing import import_clips
from common.data.synthetic.corpus import make_corpus
from common.protocol.invitation import Invitation
from common.protocol.plan import Recipe
from common.task import Task
from fl_client.enrol import enrol
from fl_client.home import DeviceHome
from fl_server.home import CoordinatorHome
from fl_server.initialise import initialise as initialise_server
from fl_server.registry import Registry
from fl_server.settings import RoundSettings, ServerSettings
from fl_server.tokens import make_token

VALUES = 95_220
"""Parameters of the default model, 381 kB."""

PATIENCE_SECONDS = 600.0


@dataclass(frozen=True)
class Timing:
    """Seconds of a round: the first, and the median of the others."""

    first: float
    median: float


def timing(seconds: Sequence[float]) -> Timing:
    """What the seconds of all rounds come to."""
    return Timing(seconds[0], statistics.median(seconds[1:]))


def time_ours(devices: int, rounds: int, folder: Path, *insecure: str) -> Timing:
    """Rounds of a coordinator and `devices` devices on this machine, all started with `insecure`."""
    clips = Clips.load(make_corpus(folder / "corpus", kind="words", voices=1, labels=2, takes=2, seed=0))
    server = CoordinatorHome(folder / "server")
    settings = ServerSettings(
        port=0,
        task=Task(labels=clips.labels),
        rounds=RoundSettings(min_devices=devices, evaluate=False),
        recipe=Recipe(steps=0),
    )
    pin = initialise_server(server, settings, names=["127.0.0.1"])
    with ExitStack() as running:
        running.enter_context(_process("fedaudio", "server", "start", "--home", str(server.root), *insecure))
        registry = Registry(server.database)
        _wait(lambda: registry.presence() is not None)
        presence = registry.presence()
        port = presence.port if presence else 0
        for number in range(devices):
            home = DeviceHome(folder / f"device{number}")
            token = make_token(registry, timedelta(minutes=5), uses=1)
            invitation = Invitation(f"127.0.0.1:{port}", pin, token)
            enrol(home, invitation, name=f"device{number}", insecure=bool(insecure))
            import_clips(clips, home.clips)
            running.enter_context(
                _process("fedaudio", "client", "start", "--home", str(home.root), *insecure)
            )
        order = registry.place_order(rounds + 1)
        _wait(lambda: registry.order(order.id).state != "open")
        return timing([row.seconds for row in registry.rounds() if row.state == "done"])


def time_stock(devices: int, rounds: int, folder: Path) -> Timing:
    """Rounds of Flower's own SuperLink and SuperNodes."""
    from flwr.cli.build import build_fab_from_disk
    from flwr.common.serde import fab_to_proto
    from flwr.proto.control_pb2 import StartRunRequest
    from flwr.supercore.control import ControlHttpClient
    from flwr.supercore.fab import Fab
    from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

    times = folder / "times.json"
    app = _write_stock_app(folder / "app", rounds + 1, devices, times)
    address, binaries = f"127.0.0.1:{_free_port()}", Path(sys.executable).parent
    with ExitStack() as running:
        host, port = address.split(":")
        link = [str(binaries / "flower-superlink"), "--insecure", "--host", host, "--port", port]
        running.enter_context(_stock(folder, "link", [*link, "--disable-runtime-dependency-installation"]))
        _wait(lambda: _open(int(port)))
        for number in range(devices):
            node = [str(binaries / "flower-supernode"), "--insecure", "--superlink", address, "--host", host]
            node += ["--port", str(_free_port())]
            running.enter_context(_stock(folder, f"node{number}", node))
        control = ControlHttpClient.from_server_address(
            address, True, None, interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr-cli")]
        )
        data = build_fab_from_disk(app)
        content = data[0] if isinstance(data, tuple) else data
        control.StartRun(StartRunRequest(fab=fab_to_proto(Fab(sha256(content).hexdigest(), content, {}))))
        _wait(times.exists)
        return timing(json.loads(times.read_text()))


STOCK_PROJECT = """[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "noop"
version = "1.0.0"
description = "rounds without work"
license = "Apache-2.0"
dependencies = ["flwr>=1.41.0"]
[tool.flwr.app]
publisher = "bench"
[tool.flwr.app.components]
serverapp = "noop.server:app"
clientapp = "noop.client:app"
[tool.flwr.app.config]
"""
STOCK_CLIENT = """from flwr.app import Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
app = ClientApp()
@app.train()
def train(message, context):
    metrics = MetricRecord({{"num-examples": 1}})
    return Message(RecordDict({{"arrays": message.content["arrays"], "metrics": metrics}}), reply_to=message)
"""
STOCK_SERVER = """import json, time
import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
app = ServerApp()
class Timed(FedAvg):
    marks = []
    def configure_train(self, *args, **options):
        self.marks.append(time.time())
        return super().configure_train(*args, **options)
@app.main()
def main(grid, context):
    n = {devices}
    strategy = Timed(fraction_evaluate=0.0, min_train_nodes=n, min_available_nodes=n, min_evaluate_nodes=0)
    while len(list(grid.get_node_ids())) < n:
        time.sleep(0.1)
    strategy.start(grid, ArrayRecord({{"w": Array(np.zeros({values}, np.float32))}}), num_rounds={rounds})
    marks = [*strategy.marks, time.time()]
    text = json.dumps([b - a for a, b in zip(marks, marks[1:])])
    open({times!r} + ".part", "w").write(text)
    import os; os.replace({times!r} + ".part", {times!r})
"""


def _write_stock_app(folder: Path, rounds: int, devices: int, times: Path) -> Path:
    package = folder / "noop"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (folder / "pyproject.toml").write_text(STOCK_PROJECT)
    (package / "client.py").write_text(STOCK_CLIENT.format())
    values = {"rounds": rounds, "devices": devices, "times": str(times), "values": VALUES}
    (package / "server.py").write_text(STOCK_SERVER.format(**values))
    return folder


class _process(subprocess.Popen[bytes]):  # noqa: N801 - used as a function
    """A quiet `python -m ...` that is ended with its context."""

    def __init__(self, *module_and_arguments: str) -> None:
        super().__init__(
            [sys.executable, "-m", *module_and_arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    def __exit__(self, *_: object) -> None:
        self.terminate()
        try:
            self.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.kill()
            self.wait()


class _stock(_process):  # noqa: N801 - used as a function
    """One of Flower's own commands, with the children it starts."""

    def __init__(self, folder: Path, name: str, command: list[str]) -> None:
        quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "OMP_NUM_THREADS": "1"}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        subprocess.Popen.__init__(
            self,
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | quiet | {"FLWR_HOME": str(folder / name), "PATH": path},
            start_new_session=True,
        )

    def __exit__(self, *_: object) -> None:
        os.killpg(self.pid, 15)
        super().__exit__()


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the federation did not get on")
        time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def main() -> None:
    """Time both at every size and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", type=int, nargs="+", default=[2, 10])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3, help="of ours, with and without security in turns")
    parser.add_argument("--no-stock", action="store_true", help="leave Flower's own out")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = []
    for devices in options.devices:
        secure, bare = list[Timing](), list[Timing]()
        for _ in range(options.repeats):
            secure.append(_in_folder(partial(time_ours, devices, options.rounds)))
            bare.append(
                _in_folder(
                    lambda folder, n=devices: time_ours(n, options.rounds, folder, "--insecure-loopback")
                )
            )
        stock = [] if options.no_stock else [_in_folder(partial(time_stock, devices, options.rounds))]
        for name, runs in (("fedaudio", secure), ("without security", bare), ("stock Flower", stock)):
            if runs:
                first = statistics.median(run.first for run in runs)
                median = statistics.median(run.median for run in runs)
                results.append({"what": name, "devices": devices, "first_s": first, "median_s": median})
                print(f"{name:16} {devices:3} devices: {median:6.2f} s a round, {first:6.2f} s the first")
        price = statistics.median(run.median for run in secure) / statistics.median(
            run.median for run in bare
        )
        results.append({"what": "price of security", "devices": devices, "ratio": price})
        print(f"price of security {devices:2} devices: {price:.2f} x")
    if options.json:
        print(json.dumps({"benchmark": "round_overhead", "results": results}))


def _in_folder(measure: Callable[[Path], Timing]) -> Timing:
    """What `measure` finds in a folder of its own."""
    folder = Path(tempfile.gettempdir()) / f"round-overhead-{secrets.token_hex(4)}"
    folder.mkdir()
    try:
        return measure(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
