"""Starting and stopping the front, the child process that talks to the network."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from types import TracebackType
from typing import Self

import psutil

from common.errors import CoordinatorError
from fl_server.front import ADDRESS_IMPOSSIBLE, PORT_TAKEN
from fl_server.home import CoordinatorHome
from fl_server.settings import ServerSettings


class FrontProcess:
    """The running front. Leaving the context ends it.

    Raises:
        CoordinatorError: FA-5002 the port is in use, FA-5008 it did not start.
    """

    def __init__(self, home: CoordinatorHome, settings: ServerSettings) -> None:
        self.secret = secrets.token_bytes(32)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fl_server.front", str(home.root), settings.host, str(settings.port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"},
            text=True,
            # Ctrl-C goes to the coordinator, which then ends its front.
            start_new_session=True,
        )
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise CoordinatorError("FA-5008", "The front has no pipes.", "Report this as a defect.")
        self._stdin = stdin
        stdin.write(self.secret.hex() + "\n")
        stdin.flush()
        line = stdout.readline()
        if not line:
            self._raise_not_started(settings)
        ready = json.loads(line)
        self.port, self.private_address = int(ready["port"]), f"127.0.0.1:{ready['private']}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def memory(self) -> int:
        """Resident memory in bytes; 0 when it has ended."""
        try:
            return int(psutil.Process(self._process.pid).memory_info().rss)
        except psutil.NoSuchProcess:
            return 0

    @property
    def pid(self) -> int:
        return self._process.pid

    def _raise_not_started(self, settings: ServerSettings) -> None:
        status = self._process.wait()
        if status == ADDRESS_IMPOSSIBLE:
            raise CoordinatorError(
                "FA-5013",
                f"This machine cannot listen on {settings.host}, port {settings.port}.",
                "Choose an address of this machine and a port you may use in server.toml.",
            )
        if status == PORT_TAKEN:
            raise CoordinatorError(
                "FA-5002",
                f"Port {settings.port} on {settings.host} is in use.",
                "Stop the other program, or choose another port in server.toml or with --port.",
            )
        raise CoordinatorError(
            "FA-5008",
            f"The front process ended with status {status} before it was ready.",
            "Read its messages above.",
        )
