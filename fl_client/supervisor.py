"""`fedaudio client start`: keeps the link and the listener alive, each in its own process."""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

from fl_client.home import DeviceHome

log = logging.getLogger(__name__)

LONGEST_PAUSE_SECONDS = 30.0
CALM_SECONDS = 60.0
"""A child that lived so long has earned a quick restart."""


@dataclass
class Child:
    """One process to keep alive.

    Args:
        hears_stdin: it is given our standard input, and is done when it ends with status 0; others get a pipe
            that closes, and ends them, when we are gone.
    """

    name: str
    command: list[str]
    hears_stdin: bool = False
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    failures: int = 0
    restart_at: float = 0.0

    def start(self) -> None:
        """Start the process."""
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            self.command,
            stdin=None if self.hears_stdin else subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    def watch(self) -> None:
        """Restart the process if it has ended, later and later if it keeps ending."""
        if self.process is not None:
            status = self.process.poll()
            if status is None:
                return
            if status == 0 and self.hears_stdin:
                log.info("the %s has come to the end of its sound", self.name)
                self.restart_at = math.inf
            else:
                self._fall_back(status)
            self.process = None
        if time.monotonic() >= self.restart_at:
            self.start()

    def _fall_back(self, status: int) -> None:
        self.failures = 0 if time.monotonic() - self.started > CALM_SECONDS else self.failures + 1
        pause = min(LONGEST_PAUSE_SECONDS, 0.25 * 2**self.failures)
        log.warning("the %s ended with status %d, starting it again in %.1f s", self.name, status, pause)
        self.restart_at = time.monotonic() + pause

    def stop(self) -> None:
        """Ask the process to end, and make it."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def supervise(home: DeviceHome, source: str | None, stop: threading.Event) -> None:
    """Run a device until `stop` is set.

    Args:
        source: what the listener listens to, as `fl_client.listen` spells it; None for no listener.
    """
    children = [Child("link", [sys.executable, "-m", "fl_client.link_process", str(home.root)])]
    if source is not None:
        listen = [sys.executable, "-m", "fl_client.listen", "--home", str(home.root), "--source", source]
        children.append(Child("listener", [*listen, "--with-parent"], hears_stdin=True))
    try:
        while not stop.is_set():
            for child in children:
                child.watch()
            stop.wait(0.2)
    finally:
        for child in children:
            child.stop()
