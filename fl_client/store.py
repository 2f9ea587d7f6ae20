"""Where the link leaves releases and the listener finds them: a folder per version and a pointer.

    models/00000006/  models/00000007/  models/current   ("7")

The pointer is replaced last, so whatever step a crash interrupts, the store still names a whole release.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from common.errors import DeviceError, ProtocolError
from common.files import StorageError, make_folder, write_atomic
from common.protocol.release import Release, load_release, open_release, write_release

log = logging.getLogger(__name__)

KEPT = 3
"""Versions kept: the current one and two to fall back to."""

Stamp = tuple[int, int]
"""Changes with every `install`; None before the first."""


class ModelStore:
    """Releases in a folder. Many may read at any time; writers wait for each other.

    Args:
        root: the folder; made by the first `install`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._pointer = root / "current"

    def install(self, files: Mapping[str, bytes]) -> Release:
        """Verify a release, keep it and make it current. The same release again repairs what is damaged.

        Args:
            files: `common.protocol.release.FILES` by name.

        Raises:
            ProtocolError: FA-3001..FA-3012, the files do not belong together.
            DeviceError: FA-4101 the version is lower than the current one, FA-4102 it is the current one with
                other contents.
            StorageError: FA-8001.
        """
        release = open_release(files)
        make_folder(self.root)
        with _storage(self.root), self._only_writer():
            self._check_order(release)
            folder = self._folder(release.version)
            for leftover in self.root.glob(".new-*"):
                shutil.rmtree(leftover, ignore_errors=True)
            if self._intact(release.version) is None:
                shutil.rmtree(folder, ignore_errors=True)
            write_release(folder, files)
            _sync(folder)
            _sync(self.root)
            write_atomic(self._pointer, f"{release.version}\n".encode())
            _sync(self.root)
            self._prune(release.version)
        return release

    def current_version(self) -> int | None:
        """The version the pointer names; None before the first `install`. Reads one tiny file."""
        try:
            return int(self._pointer.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            # The pointer itself was damaged by the disk: the newest folder is the best that is known.
            return max(self._versions(), default=None)

    def stamp(self) -> Stamp | None:
        """Cheaper to poll than `current_version`, and it also changes when a damaged version is repaired."""
        try:
            status = self._pointer.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns

    def load(self, version: int) -> Release:
        """Read and verify one version.

        Raises:
            ProtocolError: FA-3001..FA-3012, it is not there or it is damaged.
        """
        return load_release(self._folder(version))

    def load_current(self) -> Release | None:
        """The current release, or the newest earlier one that is whole, or None."""
        return next(self.newest_first(), None)

    def newest_first(self) -> Iterator[Release]:
        """The current release and those kept before it, without the damaged ones, which are logged."""
        current = self.current_version()
        if current is None:
            return
        for version in sorted({current, *(v for v in self._versions() if v < current)}, reverse=True):
            release = self._intact(version)
            if release is not None:
                yield release

    def _check_order(self, release: Release) -> None:
        current = self.current_version()
        if current is None or release.version > current:
            return
        if release.version < current:
            raise DeviceError(
                "FA-4101",
                f"Version {release.version} was refused because version {current} is already installed.",
                "Wait for a newer version, or empty the device's models folder to start anew.",
            )
        kept = self._intact(current)
        if kept is not None and kept.manifest != release.manifest:
            raise DeviceError(
                "FA-4102",
                f"There are two different releases that call themselves version {current}.",
                "Keep the installed one and tell the coordinator's operator.",
            )

    def _intact(self, version: int) -> Release | None:
        if not self._folder(version).exists():
            return None
        try:
            return self.load(version)
        except ProtocolError as error:
            log.warning(
                "version %d in %s is damaged and is passed over: %s", version, self.root, error.happened
            )
            return None

    def _folder(self, version: int) -> Path:
        return self.root / f"{version:08d}"

    def _versions(self) -> list[int]:
        try:
            return [int(entry.name) for entry in self.root.iterdir() if entry.name.isdecimal()]
        except OSError:
            return []

    def _prune(self, current: int) -> None:
        for version in sorted(self._versions(), reverse=True)[KEPT:]:
            if version != current:
                shutil.rmtree(self._folder(version), ignore_errors=True)

    @contextmanager
    def _only_writer(self) -> Iterator[None]:
        """Without this, one writer would clear away what another has half written."""
        descriptor = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _sync(folder: Path) -> None:
    """Bring a folder's entries to the disk: else a power cut may keep the pointer and lose the release."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _storage(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            "FA-8001",
            f"{root} could not be written: {error.strerror or error}.",
            "Free some space or make the folder writable, then try again.",
        ) from error
