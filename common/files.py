"""Files that are either there whole or not there."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from common.errors import FedAudioError


class StorageError(FedAudioError):
    """FA-8xxx: a disk that is full, read-only or not ours."""

    status = 8


@contextmanager
def open_atomic(path: Path, mode: int = 0o644) -> Iterator[BinaryIO]:
    """A file that becomes `path` when it is closed; readers and crashes see the old one or the new one whole.

    Raises:
        StorageError: FA-8001, the folder is full, read-only or missing.
    """
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(mode)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise _no_room(f"{path} could not be written", error) from error


def write_atomic(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write `data` as `open_atomic` does.

    Raises:
        StorageError: FA-8001.
    """
    with open_atomic(path, mode) as file:
        file.write(data)


def rename(old: Path, new: Path) -> None:
    """Give `old` the name `new`, in one step.

    Raises:
        StorageError: FA-8001.
    """
    try:
        old.replace(new)
    except OSError as error:
        raise _no_room(f"{new} could not be written", error) from error


def make_folder(path: Path, mode: int = 0o755) -> Path:
    """Create `path` with its parents if it is not there, and return it.

    Raises:
        StorageError: FA-8001.
    """
    try:
        path.mkdir(parents=True, exist_ok=True, mode=mode)
    except OSError as error:
        raise _no_room(f"The folder {path} could not be made", error) from error
    return path


def sha256(data: bytes | memoryview) -> str:
    """Hexadecimal SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def _no_room(what: str, error: OSError) -> StorageError:
    remedy = "Free some space or make the folder writable, then try again."
    return StorageError("FA-8001", f"{what}: {error.strerror or error}.", remedy)
