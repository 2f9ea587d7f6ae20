"""Real coordinators and devices for tests: small, in temporary folders, and always ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import psutil
import soundfile

from common.protocol.invitation import Invitation
from common.protocol.release import Release, load_release
from fl_client.enrol import enrol
from fl_client.home import DeviceHome
from fl_server.home import CoordinatorHome
from fl_server.initialise import initialise as initialise_server
from fl_server.registry import Order, Registry, Round
from fl_server.releases import release_folder
from fl_server.settings import ServerSettings
from fl_server.tokens import make_token

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_SECONDS = 90.0
"""Longest wait for anything; a busy machine needs many times what a quiet one does."""

SMALL = {
    "task": {"labels": ["high", "low"], "width": 4, "clip_seconds": 0.25},
    "recipe": {"steps": 1, "batch_size": 2},
}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait_for(
    condition: Callable[[], bool],
    what: str,
    check: Callable[[], None] = lambda: None,
    patience: float = PATIENCE_SECONDS,
) -> None:
    """Return when `condition` holds; fail if it does not within `patience` seconds, or if `check` does."""
    deadline = time.monotonic() + patience
    while not condition():
        check()
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)


def eventually(condition: Callable[[], bool], child: subprocess.Popen[bytes] | None = None) -> None:
    """Wait until `condition`, which only a fault keeps from coming; `child` must not end meanwhile."""

    def runs_on() -> None:
        assert child is None or child.poll() is None

    wait_for(condition, "what only a fault keeps from coming", runs_on, patience=60)


def write_tones(folder: Path, count: int = 3) -> None:
    """`count` short clips of each label of `SMALL`, in `folder`/<label>/."""
    time_axis = np.arange(4000) / 16_000
    for label, frequency in (("high", 1800.0), ("low", 300.0)):
        (folder / label).mkdir(parents=True, exist_ok=True)
        for take in range(count):
            tone = 0.3 * np.sin(2 * np.pi * (frequency + 20 * take) * time_axis)
            soundfile.write(folder / label / f"{take}.flac", tone, 16_000, subtype="PCM_16")


class Federation:
    """A coordinator's folder, and the processes a test starts on it. Leaving the context ends them all."""

    def __init__(
        self, root: Path, settings: Mapping[str, object], env: Mapping[str, str] | None = None
    ) -> None:
        self.root = root
        self.port = free_port()
        self.home = CoordinatorHome(root / "server")
        document = SMALL | {"port": self.port} | dict(settings)
        settings = ServerSettings.model_validate(document)
        self.pin = initialise_server(self.home, settings, names=["127.0.0.1"])
        self.registry = Registry(self.home.database)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | dict(env or {})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in list(self.processes):
            self.kill(name)
        self.registry.close()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def spawn(self, name: str, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start `python -m module arguments` as `name`, its output in `name`.log."""
        with (self.root / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=self.root,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=self._env,
                start_new_session=True,
            )
        return self.processes[name]

    def start_server(self) -> subprocess.Popen[bytes]:
        """Start the coordinator and wait until devices can reach it."""
        process = self.spawn("server", "fedaudio", "server", "start", "--home", str(self.home.root))
        self.wait(
            lambda: (seen := self.registry.presence()) is not None and seen.pid == process.pid, "a start"
        )
        return process

    def invite(self, uses: int = 1) -> Invitation:
        """Leave to enrol, good for an hour."""
        return Invitation(self.address, self.pin, make_token(self.registry, timedelta(hours=1), uses))

    def add_device(self, name: str) -> DeviceHome:
        """Enrol a device with the running coordinator; it has no clips."""
        home = DeviceHome(self.root / name)
        enrol(home, self.invite(), name=name)
        return home

    def start_device(self, home: DeviceHome, *arguments: str) -> subprocess.Popen[bytes]:
        return self.spawn(home.root.name, "fedaudio", "client", "start", "--home", str(home.root), *arguments)

    def start_light_devices(self, name: str, *devices: str) -> subprocess.Popen[bytes]:
        """Devices that answer by `tests.faults.light_devices` and need no torch, in one process."""
        process = self.spawn(name, "tests.faults.light_devices", str(self.root / f"{name}.homes"), *devices)
        if process.stdin:
            # Not an argument: whoever may list processes could read it.
            process.stdin.write(f"{self.invite(len(devices))}\n".encode())
            process.stdin.flush()
        return process

    def kill(self, name: str) -> None:
        """End a process and those of its session, without asking."""
        process = self.processes.pop(name)
        if process.stdin:
            process.stdin.close()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for `condition`, while every process lives."""
        wait_for(condition, what, self._check)

    def wait_online(self, count: int) -> None:
        def enough() -> bool:
            seen = self.registry.presence()
            server = self.processes["server"]
            return seen is not None and seen.pid == server.pid and seen.online >= count

        self.wait(enough, f"{count} devices")

    def train(self, rounds: int) -> Order:
        """Order rounds and wait for the end of the order."""
        order = self.registry.place_order(rounds)
        return self.finish(order)

    def finish(self, order: Order) -> Order:
        self.wait(lambda: self.registry.order(order.id).state != "open", f"order {order.id}")
        return self.registry.order(order.id)

    def last_round(self) -> Round:
        return self.registry.rounds()[-1]

    def release(self, version: int) -> Release:
        return load_release(release_folder(self.home.releases, version))

    def log(self, name: str) -> str:
        return (self.root / f"{name}.log").read_text(errors="replace")

    def _check(self) -> None:
        for name, process in self.processes.items():
            status = process.poll()
            assert status is None, f"{name} ended with {status}:\n{self.log(name)[-3000:]}"


def run_cli(
    *arguments: str, env: Mapping[str, str] | None = None, patience: float = PATIENCE_SECONDS
) -> subprocess.CompletedProcess[str]:
    """Run `fedaudio arguments` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "fedaudio", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | dict(env or {}),
        timeout=patience,
        check=False,
    )


def children_of(pid: int) -> Sequence[int]:
    """Process ids of the children of `pid`, in the order they were started."""
    return [child.pid for child in psutil.Process(pid).children()]
