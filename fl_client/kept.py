"""What a device keeps of its last training by the coordinator's algorithm: tensors that it never sends.

    kept/<fingerprint of the coordinator's root>.safetensors

One file for each coordinator, replaced by every training there and gone after one that keeps nothing.
Tensors under the names of a model's own parameters are the device's version of them: it listens with those
too. A file that does not fit, of another algorithm or damaged, is passed over: the next training starts
without it.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from common.errors import FedAudioError
from common.files import make_folder, read_if_there, storage_error, write_atomic
from common.protocol.release import Release
from common.protocol.tensors import Schema, Weights, decode_weights, encode_weights, schema_of

log = logging.getLogger(__name__)


def load_kept(folder: Path, coordinator: str, schema: Schema) -> Weights:
    """What was kept for `coordinator`, if it is exactly of `schema`; else nothing."""
    data = _read(folder, coordinator) if schema else None
    if data is None:
        return {}
    try:
        return decode_weights(data, schema)
    except FedAudioError as error:
        log.warning("what was kept of an earlier training is not used: %s", error.happened)
        return {}


def save_kept(folder: Path, coordinator: str, tensors: Weights) -> None:
    """Keep `tensors` in place of what was kept for `coordinator`; on the disk before this returns.

    Raises:
        StorageError: FA-8001.
    """
    path = _path(folder, coordinator)
    if tensors:
        make_folder(folder, mode=0o700)
        write_atomic(path, encode_weights(tensors), mode=0o600)
        return
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(f"{path} could not be removed", error) from error


def personal(release: Release, folder: Path) -> Release:
    """`release` with those parameters that the device has its own version of.

    A release does not say by which algorithm it was made; that parameters were kept under their own names
    says enough.
    """
    data = _read(folder, release.manifest.coordinator)
    if data is None:
        return release
    try:
        tensors = load(data)
    except SafetensorError as error:
        log.warning("the device's own parameters are damaged and are not used: %s", error)
        return release
    own = {name: value for name, value in tensors.items() if name in release.weights}
    shapes = schema_of(release.weights)
    if not all(_fits(value, shapes[name]) for name, value in own.items()):
        log.warning("the device's own parameters do not fit version %d and are not used", release.version)
        return release
    return replace(release, weights=release.weights | own)


def _fits(value: np.ndarray, shape: tuple[int, ...]) -> bool:
    return value.dtype == np.float32 and value.shape == shape and bool(np.isfinite(value).all())


def _read(folder: Path, coordinator: str) -> bytes | None:
    try:
        return read_if_there(_path(folder, coordinator))
    except FedAudioError as error:
        log.warning("what was kept of an earlier training is not used: %s", error.happened)
        return None


def _path(folder: Path, coordinator: str) -> Path:
    return folder / f"{coordinator}.safetensors"
