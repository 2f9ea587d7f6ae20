"""Starting and stopping the front, the child process that talks to the network."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from common.errors import CoordinatorError
from common.security.keys import KeyGroup
from fl_server.home import CoordinatorHome
from fl_server.settings import ServerSettings


class FrontProcess:
    """The running front. Leaving the context ends it.

    Args:
        password: of the key folder, as `fl_server.keyring.unlock` returns it; the front is given, through a
            pipe, the one for its own keys.
        insecure: plain HTTP and no node authentication; 127.0.0.1 or ::1 only.

    Raises:
        CoordinatorError: FA-5002 the port is in use, FA-5013 the address is not ours, FA-5090 `insecure`
            elsewhere, FA-5091 its certificate or FA-6005..FA-6007 its keys cannot be used, FA-6001..FA-6003
            nor server.toml, FA-5008 it did not start for another reason.
    """

    def __init__(
        self,
        home: CoordinatorHome,
        settings: ServerSettings,
        password: bytes | None = None,
        insecure: bool = False,
    ) -> None:
        self.secret = secrets.token_bytes(32)
        command = [sys.executable, "-m", "fl_server.front", str(home.root), settings.host, str(settings.port)]
        self._process = subprocess.Popen(
            [*command, "--insecure-loopback"] if insecure else command,
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
        its_own = KeyGroup.FRONT.password(password)
        given = {"secret": self.secret.hex(), "password": its_own.decode() if its_own else None}
        stdin.write(json.dumps(given) + "\n")
        stdin.flush()
        said = json.loads(stdout.readline() or "{}")
        if "port" not in said:
            self._raise_not_started(said)
        self.port, self.private_address = int(said["port"]), str(said["private"])

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
        # It does this itself, unless it was killed.
        shutil.rmtree(Path(self.private_address).parent, ignore_errors=True)

    def memory(self) -> int:
        """Resident memory in bytes; 0 when it has ended."""
        try:
            return int(psutil.Process(self._process.pid).memory_info().rss)
        except psutil.NoSuchProcess:
            return 0

    @property
    def pid(self) -> int:
        return self._process.pid

    def _raise_not_started(self, said: dict[str, str]) -> None:
        status = self._process.wait()
        if said:
            raise CoordinatorError(said["code"], said["happened"], said["remedy"])
        raise CoordinatorError(
            "FA-5008",
            f"The front process ended with status {status} before it was ready.",
            "Read its messages above.",
        )
