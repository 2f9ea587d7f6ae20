"""What the link says of itself in link.json."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from common.errors import FedAudioError
from common.files import write_atomic


class Traffic(Protocol):
    """What a `FleetLink` counts."""

    bytes_up: int
    bytes_down: int


class LinkStatus:
    """Counts, and writes down.

    Args:
        training: whether torch is loaded.
    """

    def __init__(self, path: Path, training: Callable[[], bool]) -> None:
        self._path = path
        self._training = training
        self._link: Traffic | None = None
        self._up = self._down = self._orders = 0
        self._refusal: str | None = None
        self._lock = threading.Lock()

    def linked(self, link: Traffic | None) -> None:
        """A link was made, or lost (None)."""
        with self._lock:
            if self._link:
                self._up += self._link.bytes_up
                self._down += self._link.bytes_down
            self._link = link
            if link:
                self._refusal = None

    def refused(self, error: FedAudioError) -> None:
        """There is no link, and waiting alone will not mend it."""
        with self._lock:
            self._refusal = f"{error.happened} {error.remedy}"

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
                "refusal": self._refusal,
                "orders": self._orders,
                "training_loaded": self._training(),
                "bytes_up": self._up + (link.bytes_up if link else 0),
                "bytes_down": self._down + (link.bytes_down if link else 0),
            }
        write_atomic(self._path, json.dumps(status).encode(), mode=0o600, lasting=False)
