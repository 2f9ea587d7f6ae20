"""Files that are either there whole or not there."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from common.errors import FedAudioError


class StorageError(FedAudioError):
    """FA-8xxx: a disk that is full, read-only or not ours."""

    status = 8


def write_atomic(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write `data` to `path` so that a reader or a crash sees the old file or the new one, never a part.

    Raises:
        StorageError: FA-8001, the folder is full, read-only or missing.
    """
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary = Path(name)
            temporary.chmod(mode)
            temporary.replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StorageError(
            "FA-8001",
            f"{path} could not be written: {error.strerror or error}.",
            "Free some space or make the folder writable, then try again.",
        ) from error


def make_folder(path: Path, mode: int = 0o755) -> Path:
    """Create `path` with its parents if it is not there, and return it.

    Raises:
        StorageError: FA-8001.
    """
    try:
        path.mkdir(parents=True, exist_ok=True, mode=mode)
    except OSError as error:
        raise StorageError(
            "FA-8001",
            f"The folder {path} could not be made: {error.strerror or error}.",
            "Free some space or choose a folder you may write to.",
        ) from error
    return path


def sha256(data: bytes | memoryview) -> str:
    """Hexadecimal SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()
