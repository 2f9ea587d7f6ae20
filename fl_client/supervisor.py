"""`fedaudio client start`: keeps the links, the listener and the outlet alive, each in its own process."""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

from common.errors import ConfigError, DeviceError
from common.files import locked
from common.log import LOG_TASK
from fl_client.home import DeviceHome
from fl_client.listen.events import MAIN
from fl_client.listen.watchdog import HUNG

log = logging.getLogger(__name__)

INSECURE = "--insecure-loopback"
"""How the link is told to do without keys."""

LONGEST_PAUSE_SECONDS = 30.0
CALM_SECONDS = 60.0
"""A child that lived so long has earned a quick restart."""

HOPELESS = frozenset({ConfigError.status, DeviceError.status})
"""A child that ends so says that somebody must mend something first; another try at once changes nothing."""


@dataclass
class Child:
    """One process to keep alive.

    Args:
        hears_stdin: it is given our standard input, and is done when it ends with status 0; others get a pipe
            that closes when we are gone.
        secret: first line that it reads from its pipe; None for none. Others can see arguments and
            environment.
        task: that it works for, which its log lines say; empty if that goes without saying.
    """

    name: str
    command: list[str]
    hears_stdin: bool = False
    secret: bytes | None = field(default=None, repr=False)
    task: str = ""
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    failures: int = 0
    restart_at: float = 0.0
    last_status: int = 0

    def start(self) -> None:
        """Start the process."""
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            self.command,
            stdin=None if self.hears_stdin else subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1", LOG_TASK: self.task},
        )
        if self.secret is not None and self.process.stdin:
            # One that has died already is noticed by `watch`.
            with suppress(BrokenPipeError):
                self.process.stdin.write(self.secret + b"\n")
                self.process.stdin.flush()

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
        if status == HUNG and time.monotonic() - self.started > CALM_SECONDS:
            log.warning("the %s hung and is started again", self.name)
            self.last_status = status
            return
        if status in HOPELESS:
            if self.last_status != status:
                log.error(
                    "the %s cannot work as things are; its own words are above. It is tried every %.0f s",
                    self.name,
                    LONGEST_PAUSE_SECONDS,
                )
            self.last_status, self.restart_at = status, time.monotonic() + LONGEST_PAUSE_SECONDS
            return
        self.last_status = status
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


def supervise(
    homes: Mapping[str, DeviceHome],
    source: str | None,
    stop: threading.Event,
    *,
    passwords: Mapping[str, bytes | None],
    insecure: bool = False,
    outlet: bool = False,
) -> None:
    """Run a device until `stop` is set: a link for each task, and one listener for all.

    Args:
        homes: the folder of each task, as `task_homes` gives them.
        source: what the listener listens to, as `fl_client.listen` spells it; None for no listener.
        passwords: of the keys of each task, as `KeyFolder.unlock` derives them; for the links alone.
        insecure: no TLS, plans not signed, answers not sealed; to a coordinator on this machine only.
        outlet: whether somebody is to be told what is heard, as device.toml says.

    Raises:
        DeviceError: FA-4025, one of the devices runs already.
    """
    root = str(homes[MAIN].root)
    children = [_link(task, home, passwords[task], insecure) for task, home in homes.items()]
    if source is not None:
        listen = [sys.executable, "-m", "fl_client.listen", "--home", root, "--source", source]
        children.append(Child("listener", [*listen, "--with-parent"], hears_stdin=_has_end(source)))
    if outlet:
        children.append(Child("outlet", [sys.executable, "-m", "fl_client.outlet", "--home", root]))
    with _alone(homes.values()):
        try:
            while not stop.is_set():
                for child in children:
                    child.watch()
                stop.wait(0.2)
        finally:
            for child in children:
                child.stop()


def _has_end(source: str) -> bool:
    """Whether a listener may come to the end of its sound; a microphone will be plugged in again."""
    return source.startswith(("stdin", "file:", "dir:"))


def _link(task: str, home: DeviceHome, password: bytes | None, insecure: bool) -> Child:
    command = [sys.executable, "-m", "fl_client.link_process", str(home.root), *[INSECURE] * insecure]
    own = "" if task == MAIN else task
    return Child(f"link {own}".rstrip(), command, secret=password or b"", task=own)


@contextmanager
def _alone(homes: Iterable[DeviceHome]) -> Iterator[None]:
    """One device, one link: two would push each other out again and again."""
    with ExitStack() as held:
        for home in homes:
            try:
                held.enter_context(locked(home.root / ".running", wait=False))
            except BlockingIOError as error:
                raise DeviceError(
                    "FA-4025",
                    f"The device in {home.root} runs already.",
                    "See `fedaudio client status`; stop it first, or name another folder with --home.",
                ) from error
        yield
