"""The coordinator's releases on disk: one folder a version, and a pointer that says who is given which.

The pointer is JSON, [[version, per cent of the devices], ...], newest first, and ends with a version that all
devices are given.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from pydantic import TypeAdapter, ValidationError

from common.files import write_atomic
from common.protocol.release import WEIGHTS, write_release

POINTER = "current"

TRUST = "trust.fas"
"""The coordinator's trust statement, in a release that left it."""

ALL = 100.0

Stages: TypeAlias = list[tuple[int, float]]
"""(version, per cent of the devices that are given it), newest first."""

_STAGES: TypeAdapter[Stages] = TypeAdapter(Stages)


def release_folder(releases: Path, version: int) -> Path:
    """Where `version` is, or would be."""
    return releases / f"{version:08d}"


def stages(releases: Path) -> Stages:
    """Which versions are given out, and to how many devices; empty if there are none yet."""
    try:
        return _STAGES.validate_json((releases / POINTER).read_bytes())
    except (OSError, ValidationError):
        return []


def give(releases: Path, wanted: Sequence[tuple[int, float]]) -> None:
    """Give versions to devices from now on.

    Args:
        wanted: (version, per cent), in any order; what is older than the newest version for all is left out.

    Raises:
        StorageError: FA-8001.
    """
    kept: Stages = []
    for version, percent in sorted(wanted, reverse=True):
        kept.append((version, percent))
        if percent >= ALL:
            break
    write_atomic(releases / POINTER, _STAGES.dump_json(kept))


def version_for(device: str | None, given: Stages) -> int | None:
    """The newest version that `device` is given; what everybody is given if it is None."""
    for version, percent in given:
        if percent >= ALL or (device is not None and in_stage(device, version, percent)):
            return version
    return None


def in_stage(device: str, version: int, percent: float) -> bool:
    """Whether `device` is among the first `percent` per cent to be given `version`.

    A hash decides, so another version has other devices first, and a higher percentage only adds some.
    """
    place = hashlib.sha256(b"fedaudio/rollout/v1\0" + version.to_bytes(8) + device.encode()).digest()[:8]
    return int.from_bytes(place) / 2**64 < percent / 100


def largest_weights(releases: Path) -> int:
    """Bytes of the weights of the newest version on disk, given out or not; 0 if there is none."""
    folders = sorted((folder.name for folder in releases.glob("[0-9]*")), reverse=True)
    try:
        return (releases / folders[0] / WEIGHTS).stat().st_size if folders else 0
    except OSError:
        return 0


def store_release(releases: Path, version: int, files: Mapping[str, bytes]) -> Path:
    """Write `version` without giving it to devices yet."""
    folder = release_folder(releases, version)
    write_release(folder, files)
    return folder


def export_release(release: Path, trust: Path, out: Path) -> None:
    """Copy a coordinator's release to the new folder `out`, with all that `fedaudio model verify` needs.

    Args:
        release: folder of the version.
        trust: the coordinator's keys/trust.fas.
    """
    shutil.copytree(release, out)
    shutil.copyfile(trust, out / TRUST)
