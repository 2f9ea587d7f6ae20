"""The device's link process: takes part in rounds and brings releases home. Loads no torch.

Run as `python -m fl_client.link_process HOME`; it ends when standard input does, so it cannot be orphaned.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from common.files import StorageError, write_atomic
from common.log import configure_logging
from common.parent import wait_for_end_of_input
from common.settings import load_settings
from fl_client.app import make_client_app
from fl_client.home import DeviceHome
from fl_client.link import FleetLink, stay_linked
from fl_client.release_feed import follow_releases
from fl_client.settings import DeviceSettings
from fl_client.store import ModelStore
from fl_client.training_process import TrainingProcess

log = logging.getLogger(__name__)


class LinkStatus:
    """What the link says of itself in link.json."""

    def __init__(self, path: Path, training: TrainingProcess) -> None:
        self._path = path
        self._training = training
        self._link: FleetLink | None = None
        self._up = self._down = self._orders = 0
        self._lock = threading.Lock()

    def linked(self, link: FleetLink | None) -> None:
        """A link was made, or lost (None)."""
        with self._lock:
            self._count_link()
            self._link = link

    def downloaded(self, count: int) -> None:
        """A release brought `count` bytes."""
        with self._lock:
            self._down += count

    def answered(self) -> None:
        """An order was answered."""
        with self._lock:
            self._orders += 1

    def write(self) -> None:
        """Replace link.json."""
        with self._lock:
            link = self._link
            status = {
                "pid": os.getpid(),
                "time": time.time(),
                "linked": link is not None,
                "orders": self._orders,
                "training_loaded": self._training.running,
                "bytes_up": self._up + (link.bytes_up if link else 0),
                "bytes_down": self._down + (link.bytes_down if link else 0),
            }
        write_atomic(self._path, json.dumps(status).encode(), mode=0o600)

    def _count_link(self) -> None:
        if self._link:
            self._up += self._link.bytes_up
            self._down += self._link.bytes_down


def main() -> None:
    """Stay linked until asked to stop."""
    home = DeviceHome(Path(sys.argv[1]))
    settings = load_settings(DeviceSettings, home.config)
    configure_logging()
    stop = threading.Event()
    training = TrainingProcess(home, settings.worker_idle_seconds)

    def end() -> None:
        stop.set()
        training.abort()

    signal.signal(signal.SIGTERM, lambda number, frame: end())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    status = LinkStatus(home.link_status, training)
    ca = home.coordinator_certificate.read_bytes()

    def answer(plan: bytes, weights: bytes) -> bytes:
        try:
            return training.answer(plan, weights)
        finally:
            status.answered()

    failed = threading.Event()

    def help_along(work: Callable[[], None]) -> None:
        try:
            work()
        except Exception:
            # Half a link is worse than one that the supervisor starts again.
            log.exception("a part of the link has failed, so the link ends")
            failed.set()
            end()

    for work in (
        partial(_end_with_parent, end),
        partial(_keep_status, status, stop),
        partial(follow_releases, settings.server, ca, ModelStore(home.models), stop, status.downloaded),
    ):
        threading.Thread(target=help_along, args=(work,), daemon=True).start()
    try:
        stay_linked(settings.server, ca, make_client_app(answer), stop, status.linked)
    finally:
        training.close()
    sys.exit(1 if failed.is_set() else 0)


def _end_with_parent(end: Callable[[], None]) -> None:
    wait_for_end_of_input()
    end()


def _keep_status(status: LinkStatus, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            status.write()
        except StorageError:
            # A full disk must not end the link; the release feed reports it in words.
            stop.wait(10)
        stop.wait(1.0)


if __name__ == "__main__":
    main()
