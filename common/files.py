"""Files that are either there whole or not there."""

from __future__ import annotations

import fcntl
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
def open_atomic(path: Path, mode: int = 0o644, *, lasting: bool = True) -> Iterator[BinaryIO]:
    """A file that becomes `path` when it is closed; readers and crashes see the old one or the new one whole.

    Args:
        lasting: whether it must be on the disk, under its name, before this returns. A report that is written
            anew every second need not be.

    Raises:
        StorageError: FA-8001, the folder is full, read-only or missing.
    """
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                if lasting:
                    file.flush()
                    os.fsync(file.fileno())
            temporary.chmod(mode)
            temporary.replace(path)
            if lasting:
                # Else a power cut could take the new name back, and with it what was promised to be written.
                sync_folder(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise storage_error(f"{path} could not be written", error) from error


def write_atomic(path: Path, data: bytes, mode: int = 0o644, *, lasting: bool = True) -> None:
    """Write `data` as `open_atomic` does.

    Raises:
        StorageError: FA-8001.
    """
    with open_atomic(path, mode, lasting=lasting) as file:
        file.write(data)


def rename(old: Path, new: Path) -> None:
    """Give `old` the name `new`, in one step, on the disk before this returns.

    Raises:
        StorageError: FA-8001.
    """
    try:
        old.replace(new)
        sync_folder(new.parent)
    except OSError as error:
        raise storage_error(f"{new} could not be written", error) from error


def sync_folder(path: Path) -> None:
    """Bring a folder's entries to the disk: else a power cut may keep what names a file and lose the file.

    Raises:
        StorageError: FA-8001.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise storage_error(f"{path} could not be written", error) from error


def make_folder(path: Path, mode: int = 0o755) -> Path:
    """Create `path` with its parents if it is not there, and return it.

    Raises:
        StorageError: FA-8001.
    """
    try:
        path.mkdir(parents=True, exist_ok=True, mode=mode)
    except OSError as error:
        raise storage_error(f"The folder {path} could not be made", error) from error
    return path


def is_there(path: Path) -> bool:
    """Whether `path` exists. Where a folder above may not be entered, it cannot be told.

    Raises:
        StorageError: FA-8001.
    """
    try:
        return path.exists()
    except OSError as error:
        raise storage_error(f"{path} could not be read", error) from error


def read_if_there(path: Path) -> bytes | None:
    """The bytes of `path`; None if there is no such file, which is another thing than one that is unreadable.

    Raises:
        StorageError: FA-8001.
    """
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise storage_error(f"{path} could not be read", error) from error


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Keep every other thread and process out that locks `path`; it is made if it is not there.

    Raises:
        BlockingIOError: it is locked, and `wait` is False.
        StorageError: FA-8001.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise storage_error(f"{path} could not be written", error) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError as error:
            raise storage_error(f"{path} could not be locked", error) from error
        yield
    finally:
        os.close(descriptor)


def sha256(data: bytes | memoryview) -> str:
    """Hexadecimal SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def storage_error(what: str, error: OSError) -> StorageError:
    """`error` in two sentences, the first of which begins with `what`."""
    if isinstance(error, PermissionError):
        remedy = "Run the command as the user whose files these are, or give that user access to them."
    else:
        remedy = "Free some space or make the folder writable, then try again."
    return StorageError("FA-8001", f"{what}: {error.strerror or error}.", remedy)
