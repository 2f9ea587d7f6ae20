"""The demo's coordinator and devices, as operating-system processes, and their folders."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from common.data.clips import Clips
from common.data.importing import import_clips
from common.errors import CoordinatorError
from common.protocol.invitation import Invitation
from common.protocol.tensors import Weights
from fedaudio.demo.data import DemoData, write_stream
from fl_client.enrol import enrol
from fl_client.home import DeviceHome
from fl_server.home import CoordinatorHome
from fl_server.initialise import initialise as initialise_server
from fl_server.registry import Registry
from fl_server.settings import ServerSettings
from fl_server.tokens import make_token

START_SECONDS = 120.0
INVITED_FOR = timedelta(minutes=5)


class DemoFleet:
    """Brings a coordinator and devices up on 127.0.0.1, and takes them down when the context is left.

    Args:
        work: folder for all their state and logs.
        body: what the first version begins with, but for its head.

    Attributes:
        left_out: (file, reason) of each clip that was not imported.
    """

    def __init__(
        self, work: Path, settings: ServerSettings, data: DemoData, seed: int, body: Weights | None = None
    ) -> None:
        self.server = CoordinatorHome(work / "server")
        self.devices = [DeviceHome(work / f"device-{i + 1}") for i in range(len(data.devices))]
        self.left_out: list[tuple[str, str]] = []
        self._work = work
        self._settings = settings
        self._make_body = None if body is None else lambda: body
        self._data = data
        self._seed = seed
        self._processes: list[subprocess.Popen[bytes]] = []
        self._logs: list[IO[bytes]] = []

    def __enter__(self) -> Self:
        try:
            self._start_server()
            for number, home in enumerate(self.devices):
                self._start_device(number, home)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def check(self) -> None:
        """Raise if a process has ended that should not have.

        Raises:
            CoordinatorError: FA-5011.
        """
        for process in self._processes:
            if (status := process.poll()) is not None:
                raise CoordinatorError(
                    "FA-5011",
                    f"A process of the demo ended with status {status}.",
                    f"Read the logs in {self._work}.",
                )

    def _start_server(self) -> None:
        settings = self._settings
        if len(self._data.validation):
            folder = self._work / "validation"
            self._import(self._data.validation, folder)
            settings = settings.model_copy(update={"validation": folder})
        self._pin = initialise_server(self.server, settings, names=["127.0.0.1"], make_body=self._make_body)
        self._spawn("server", ["server", "start", "--home", str(self.server.root)])
        self._address = f"127.0.0.1:{self._wait_for_port()}"

    def _wait_for_port(self) -> int:
        registry = Registry(self.server.database)
        deadline = time.monotonic() + START_SECONDS
        while (presence := registry.presence()) is None:
            self.check()
            if time.monotonic() > deadline:
                raise CoordinatorError(
                    "FA-5011", "The coordinator did not start.", f"Read {self._work}/server.log."
                )
            time.sleep(0.1)
        return presence.port

    def _start_device(self, number: int, home: DeviceHome) -> None:
        token = make_token(Registry(self.server.database), INVITED_FOR, uses=1)
        enrol(home, Invitation(self._address, self._pin, token), name=home.root.name)
        self._import(self._data.devices[number], home.clips)
        stream = self._work / f"{home.root.name}.wav"
        write_stream(self._data.unseen, stream, self._seed + number)
        source = f"file:{stream},loop"
        self._spawn(home.root.name, ["client", "start", "--home", str(home.root), "--source", source])

    def _import(self, clips: Clips, folder: Path) -> None:
        self.left_out += import_clips(clips, folder).skipped

    def _spawn(self, name: str, arguments: Sequence[str]) -> None:
        log = (self._work / f"{name}.log").open("ab")
        self._logs.append(log)
        process = subprocess.Popen(
            [sys.executable, "-m", "fedaudio.demo.child", *arguments],
            stdin=subprocess.PIPE,  # never written to; it ends when the demo does
            stdout=log,
            stderr=log,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            # Ctrl-C goes to the demo, which then ends them in order.
            start_new_session=True,
        )
        self._processes.append(process)

    def _stop(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdin:
                process.stdin.close()
        for log in self._logs:
            log.close()
