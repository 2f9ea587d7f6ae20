"""What a device keeps of its last training by the coordinator's algorithm: tensors that it never sends.

    kept/<fingerprint of the coordinator's root>.safetensors           of an exact training
    kept/<fingerprint of the coordinator's root>.private.safetensors   of a private one

One file for each coordinator, replaced by every training there and gone after one that keeps nothing. What
an exact training has kept tells of the clips exactly, so it must not enter a private one, whose answer would
then tell more than it claims. The other way round there is nothing to protect.

Of an algorithm whose devices have a head of their own, the device listens with what it kept. A file that does
not fit, of another algorithm or damaged, is passed over: the next training starts without it.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError, deserialize

from common.errors import FedAudioError
from common.files import make_folder, read_if_there, storage_error, write_atomic
from common.protocol.algorithms import PERSONAL
from common.protocol.release import Release
from common.protocol.tensors import Schema, Weights, decode_weights, encode_weights, schema_of

log = logging.getLogger(__name__)


def load_kept(folder: Path, coordinator: str, schema: Schema, *, private: bool) -> Weights:
    """What was kept for `coordinator`, if it is exactly of `schema`; else nothing.

    Args:
        private: whether it is for a private training, which gets nothing that an exact one has kept.
    """
    data = _read(folder, coordinator, private) if schema else None
    if data is None:
        return {}
    try:
        return decode_weights(data, schema)
    except FedAudioError as error:
        log.warning("what was kept of an earlier training is not used: %s", error.happened)
        return {}


def save_kept(folder: Path, coordinator: str, tensors: Weights, *, private: bool) -> None:
    """Keep `tensors` in place of what was kept for `coordinator`; on the disk before this returns.

    Args:
        private: whether a private training has made them.

    Raises:
        StorageError: FA-8001.
    """
    if tensors:
        make_folder(folder, mode=0o700)
        write_atomic(_path(folder, coordinator, private), encode_weights(tensors), mode=0o600)
    for old in (not private,) if tensors else (True, False):
        path = _path(folder, coordinator, old)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(f"{path} could not be removed", error) from error


def personal(release: Release, folder: Path) -> Release:
    """`release` with those parameters that the device has its own version of, if its algorithm has such."""
    if release.manifest.algorithm not in PERSONAL:
        return release
    data = _read(folder, release.manifest.coordinator, private=False)
    if data is None:
        return release
    try:
        names = {name for name, _ in deserialize(data)}  # type: ignore[no-untyped-call]
        shapes = schema_of(release.weights)
        own = decode_weights(data, {name: shape for name, shape in shapes.items() if name in names})
    except (SafetensorError, FedAudioError) as error:
        log.warning(
            "the device's own parameters do not fit version %d and are not used: %s", release.version, error
        )
        return release
    return replace(release, weights=release.weights | own)


def _read(folder: Path, coordinator: str, private: bool) -> bytes | None:
    """Of a private training, or else of whichever was last."""
    try:
        data = None if private else read_if_there(_path(folder, coordinator, private=False))
        return data if data is not None else read_if_there(_path(folder, coordinator, private=True))
    except FedAudioError as error:
        log.warning("what was kept of an earlier training is not used: %s", error.happened)
        return None


def _path(folder: Path, coordinator: str, private: bool) -> Path:
    return folder / f"{coordinator}{'.private' if private else ''}.safetensors"
