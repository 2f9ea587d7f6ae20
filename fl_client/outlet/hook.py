"""Runs the owner's program for each event and alarm."""

from __future__ import annotations

import json
import logging
import os
import queue
import shutil
import signal
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Self

from common.errors import DeviceError
from fl_client.outlet.lines import HEARD, Line
from fl_client.reports import Report

log = logging.getLogger(__name__)

WAITING = 64
"""Messages that may wait for the program; more are left out."""

TIMEOUT_SECONDS = 10.0
"""The program is ended when it takes longer."""

_INHERITED = frozenset({
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "TZ", "LANG", "LANGUAGE",
    "DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "PULSE_SERVER",
})  # fmt: skip
"""Nothing else of our environment: a passphrase or a key may be in it."""


class Hook:
    """Runs `command` once a message, one at a time, the message's JSON on its standard input and its type,
    label and task in FEDAUDIO_TYPE, FEDAUDIO_LABEL and FEDAUDIO_TASK, empty where it has none. No shell is
    between.

    Raises:
        DeviceError: FA-4235, there is no such program.
    """

    def __init__(self, command: Sequence[str], timeout: float = TIMEOUT_SECONDS) -> None:
        if not command or shutil.which(command[0]) is None:
            raise DeviceError(
                "FA-4235",
                f"There is no program '{command[0] if command else ''}' to run for each event.",
                "Write the program's whole path, and check that this user may run it.",
            )
        self._command = list(command)
        self._timeout = timeout
        self._environment = {
            name: value for name, value in os.environ.items() if name in _INHERITED or name.startswith("LC_")
        }
        self._waiting: queue.Queue[Line] = queue.Queue(WAITING)
        self._stop = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._said: set[str] = set()
        self._runs = self._failures = self._left_out = 0

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._work, name="hook", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End at once, the program too; `finish` first to let it work off what waits."""
        self._stop.set()
        if self._process is not None:
            _kill(self._process)
        self._thread.join(2.0)

    def __call__(self, line: Line) -> None:
        """Have the program run for a message, if it is of a kind for it."""
        if line["type"] not in HEARD:
            return
        try:
            self._waiting.put_nowait(line)
        except queue.Full:
            self._left_out += 1
            self._say("busy", f"is slower than events come, so some were left out ({WAITING} may wait)")

    def finish(self) -> None:
        """Return when nothing waits, or nothing is run any more."""
        done = self._waiting.all_tasks_done
        with done:
            while self._waiting.unfinished_tasks and self._thread.is_alive():
                done.wait(0.2)

    def report(self) -> Report:
        """What was counted.

        Raises:
            RuntimeError: nothing is run any more.
        """
        if not self._thread.is_alive():
            raise RuntimeError("the hook has ended by a fault")
        return {"hook_runs": self._runs, "hook_failures": self._failures, "hook_left_out": self._left_out}

    def _work(self) -> None:
        while not self._stop.is_set():
            with suppress(queue.Empty):
                line = self._waiting.get(timeout=0.2)
                try:
                    self._run(line)
                finally:
                    self._waiting.task_done()

    def _run(self, line: Line) -> None:
        named = {
            f"FEDAUDIO_{name.upper()}": str(line.get(name) or "").replace("\0", "")
            for name in ("type", "label", "task")
        }
        self._runs += 1
        try:
            self._process = process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,  # ours is for messages
                env=self._environment | named,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            self._fail("start", f"could not be started: {error}")
            return
        try:
            process.communicate(json.dumps(line, ensure_ascii=False).encode() + b"\n", self._timeout)
        except subprocess.TimeoutExpired:
            _kill(process)
            process.communicate()
            self._fail("timeout", f"took longer than {self._timeout:.0f} s and was ended")
            return
        if process.returncode and not self._stop.is_set():
            self._fail("status", f"ended with status {process.returncode}")

    def _fail(self, kind: str, what: str) -> None:
        self._failures += 1
        self._say(kind, what)

    def _say(self, kind: str, what: str) -> None:
        """Each kind of fault once: the report counts them all."""
        if kind not in self._said:
            self._said.add(kind)
            log.warning("the program for events, %s, %s; this is said once", self._command[0], what)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a program and what it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
