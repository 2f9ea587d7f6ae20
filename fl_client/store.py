"""Where the link leaves releases and the listener finds them: a folder per version and a pointer.

    models/00000006/  models/00000007/  models/current   ("7")

The pointer is replaced last, so whatever step a crash interrupts, the store still names a whole release.
Before it, the mark of the highest version is raised, kept elsewhere: nothing older comes in after it.
"""

from __future__ import annotations

import logging
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import DeviceError, ProtocolError
from common.files import locked, make_folder, rename, storage_error, write_atomic
from common.protocol.release import Manifest, Release, load_release
from fl_client.listen.trials import read_note
from fl_client.marks import raise_marks, read_marks

log = logging.getLogger(__name__)

KEPT = 3
"""Versions kept: the current one and two to fall back to, beside those in use."""

Stamp = tuple[int, int]
"""Changes with every `adopt`; None before the first."""


class ModelStore:
    """Releases in a folder. Many may read at any time; writers wait for each other.

    Args:
        root: the folder; made by the first `receiving`.
        marks: file of the device's high-water marks (`fl_client.marks`); only who writes needs it.
        trial: file of the trials here (`fl_client.listen.trials`): what is tried, and what has proved itself,
            is kept.
    """

    def __init__(self, root: Path, marks: Path | None = None, trial: Path | None = None) -> None:
        self.root = root
        self._marks = marks
        self._trial = trial
        self._pointer = root / "current"

    @contextmanager
    def receiving(self) -> Iterator[Path]:
        """An empty folder to put the files of a release into. What is not adopted until the end is gone then.

        Raises:
            StorageError: FA-8001.
        """
        make_folder(self.root)
        # Without the lock, one writer would clear away what another has half written.
        with locked(self.root / ".lock"):
            for leftover in self.root.glob(".new-*"):
                shutil.rmtree(leftover, ignore_errors=True)
            folder = make_folder(self.root / f".new-{secrets.token_hex(4)}")
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def adopt(self, folder: Path) -> Release:
        """Keep the release in `folder`, one that `receiving` gave, and make it current.

        Its signature has been checked before. The same release again repairs what is damaged.

        Raises:
            ProtocolError: FA-3001..FA-3003, FA-3011, FA-3012, FA-3044, the files do not belong together.
            DeviceError: FA-4008, FA-4101, FA-4102, as `check_order`.
            StorageError: FA-8001.
        """
        release = load_release(folder)
        self.check_order(release.manifest)
        with _storage(self.root):
            final, kept = self._folder(release.version), self.find(release.version)
            if kept is None or kept.manifest != release.manifest:
                shutil.rmtree(final, ignore_errors=True)
                rename(folder, final)
            self._raise_mark(release.version)
            write_atomic(self._pointer, f"{release.version}\n".encode())
            self._prune(release.version)
        return release

    def check_order(self, manifest: Manifest) -> None:
        """Return if the release that `manifest` is about may be installed after those that were.

        Raises:
            DeviceError: FA-4008 the marks are damaged, FA-4101 its version is lower than one that was ever
                installed, whatever the folder holds today, FA-4102 it is the highest with other contents.
        """
        highest, version = self._highest(), manifest.version
        if version < highest:
            raise DeviceError(
                "FA-4101",
                f"Version {version} was refused because version {highest} was already installed here.",
                "Wait for a newer version; a coordinator goes back by `fedaudio server models rollback`.",
            )
        kept = self.find(version) if version == highest else None
        if kept is not None and kept.manifest != manifest:
            raise DeviceError(
                "FA-4102",
                f"There are two different releases that call themselves version {version}.",
                "Keep the installed one and tell the coordinator's operator.",
            )

    def wanted_after(self) -> int:
        """Releases above this version are worth fetching; -1 if any is.

        Raises:
            DeviceError: FA-4008.
        """
        highest = self._highest()
        whole = self.current_version() == highest and self.find(highest) is not None
        return highest if whole else max(-1, highest - 1)

    def current_version(self) -> int | None:
        """The version the pointer names; None before the first `adopt`. Reads one tiny file."""
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

    def find(self, version: int) -> Release | None:
        """One version, if it is there; one that is damaged is logged."""
        if not self._folder(version).exists():
            return None
        try:
            return self.load(version)
        except ProtocolError as error:
            log.warning(
                "version %d in %s is damaged and is passed over: %s", version, self.root, error.happened
            )
            return None

    def load_current(self) -> Release | None:
        """The current release, or the newest earlier one that is whole, or None."""
        return next(self.newest_first(), None)

    def newest_first(self) -> Iterator[Release]:
        """The current release and those kept before it, without the damaged ones, which are logged."""
        current = self.current_version()
        if current is None:
            return
        for version in sorted({current, *(v for v in self._versions() if v < current)}, reverse=True):
            release = self.find(version)
            if release is not None:
                yield release

    def graph(self, digest: str) -> bytes | None:
        """The graph with this digest, if the current release has it: one serves every version of a model."""
        current = self.load_current()
        return current.graph if current is not None and current.manifest.graph.digest == digest else None

    def _highest(self) -> int:
        """The highest version that was ever installed; -1 if there was none. The folder may hold less."""
        return read_marks(self._marks_path()).release - 1

    def _raise_mark(self, version: int) -> None:
        """From now on nothing lower is installed, also if the folder is lost or replaced by an old copy."""
        path = self._marks_path()
        raise_marks(path, lambda marks: marks.model_copy(update={"release": max(marks.release, version + 1)}))

    def _marks_path(self) -> Path:
        if self._marks is None:
            raise ValueError("whoever installs releases must give the marks")
        return self._marks

    def _folder(self, version: int) -> Path:
        return self.root / f"{version:08d}"

    def _versions(self) -> list[int]:
        try:
            return [int(entry.name) for entry in self.root.iterdir() if entry.name.isdecimal()]
        except OSError:
            return []

    def _prune(self, current: int) -> None:
        in_use = read_note(self._trial).in_use if self._trial is not None else set()
        for version in sorted(self._versions(), reverse=True)[KEPT:]:
            if version not in {current, *in_use}:
                shutil.rmtree(self._folder(version), ignore_errors=True)


@contextmanager
def _storage(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise storage_error(f"{root} could not be written", error) from error
