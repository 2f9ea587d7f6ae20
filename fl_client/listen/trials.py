"""Remembers across restarts which release is on trial, and which has failed.

A listener that is killed, or kills itself, while a release is on trial begins with the version before. So a
release that brings the process down does so once, not on and on. A version that failed is not tried again
until the store changes.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from pydantic import ValidationError

from common.files import StorageError, read_if_there, write_atomic
from common.settings import Settings
from fl_client.store import Stamp

log = logging.getLogger(__name__)


class Trial(Settings):
    """What is in the file.

    Attributes:
        stamp: the state of the store in which it holds.
        version: the release it is about.
        failed: why it is not used; None while it is on trial.
    """

    stamp: tuple[int, int]
    version: int
    failed: str | None = None


class Trials:
    """The trial of the newest release, in a small file.

    Args:
        path: the file, its owner's alone; None to remember nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._last = self._read()

    @property
    def running(self) -> bool:
        """Whether a release is on trial."""
        return self._last is not None and self._last.failed is None

    @property
    def version(self) -> int | None:
        """The release it is or was about; None if there is none."""
        return self._last.version if self._last is not None else None

    @property
    def reason(self) -> str:
        """Why it failed."""
        return (self._last.failed or "") if self._last is not None else ""

    def died(self) -> int | None:
        """After a restart: the version during whose trial the listener ended, which has failed by that."""
        if not self.running:
            return None
        self.fail("the listener ended while it was on trial")
        return self.version

    def failed(self, version: int, stamp: Stamp | None) -> bool:
        """Whether `version` has failed in this state of the store."""
        last = self._last
        return last is not None and last.failed is not None and (last.version, last.stamp) == (version, stamp)

    def begin(self, version: int, stamp: Stamp) -> None:
        """Note, on the disk before this returns, that `version` is on trial from now on."""
        self._write(Trial(stamp=stamp, version=version))

    def fail(self, reason: str) -> None:
        """The release on trial is not to be tried again."""
        if self._last is not None:
            self._write(self._last.model_copy(update={"failed": reason}))

    def passed(self) -> None:
        """The release on trial has proved itself, or was not to blame."""
        self._last = None
        if self._path is not None:
            try:
                self._path.unlink(missing_ok=True)
            except OSError as error:
                log.warning("%s could not be removed: %s", self._path, error)

    def _read(self) -> Trial | None:
        try:
            data = read_if_there(self._path) if self._path is not None else None
            return Trial.model_validate_json(data) if data is not None else None
        except (StorageError, ValidationError) as error:
            log.warning("what is known of a trial is not used: %s", error)
            return None

    def _write(self, trial: Trial) -> None:
        self._last = trial
        if self._path is None:
            return
        try:
            write_atomic(self._path, json.dumps(trial.model_dump()).encode(), mode=0o600)
        except StorageError as error:
            log.warning("a trial is not remembered: %s", error.happened)
