"""The coordinator's releases on disk: one folder a version, and a pointer to the current one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from common.files import write_atomic
from common.protocol.release import write_release

POINTER = "current"


def release_folder(releases: Path, version: int) -> Path:
    """Where `version` is, or would be."""
    return releases / f"{version:08d}"


def current_version(releases: Path) -> int | None:
    """The version devices are given now, or None."""
    try:
        return int((releases / POINTER).read_text())
    except (OSError, ValueError):
        return None


def store_release(releases: Path, version: int, files: Mapping[str, bytes]) -> Path:
    """Write `version` without giving it to devices yet."""
    folder = release_folder(releases, version)
    write_release(folder, files)
    return folder


def point_to(releases: Path, version: int) -> None:
    """Give `version` to devices from now on."""
    write_atomic(releases / POINTER, f"{version}\n".encode())
