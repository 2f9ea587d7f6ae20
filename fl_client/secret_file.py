"""Secrets that a person keeps in files: one line, the owner's alone."""

from __future__ import annotations

import os
from pathlib import Path

from common.errors import DeviceError
from common.files import storage_error

LARGEST = 4096


def read_secret(path: Path) -> str | None:
    """The first line of `path`; None if there is no such file.

    Raises:
        DeviceError: FA-4232, others may read it, or it holds no secret.
        StorageError: FA-8001.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(LARGEST).decode(errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise storage_error(f"{path} could not be read", error) from error
    secret = text.partition("\n")[0].strip()
    if mode & 0o077 or not secret:
        fault = "may be read by others" if mode & 0o077 else "is empty"
        raise DeviceError(
            "FA-4232", f"The secret file {path} {fault}.", f"Write it anew and `chmod 600 {path}`."
        )
    return secret
