"""All clips of a world as windows in files that every process maps; who has which is not known here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from common.audio.batch import BatchFrontEnd
from common.data.features import FeatureSet
from common.files import make_folder, open_atomic
from common.task import Task

Numbers = NDArray[np.int32] | NDArray[np.int64]

_BATCH = 64
"""Windows normalised at once; more leave the processor's cache."""


@dataclass(frozen=True, eq=False)
class Recordings:
    """Windows, those of one clip in a row, and clips in their order.

    Args:
        energies: (N, T, bands) float32.
        labels: (N,) int64.
        first: first window of each clip, and N at the end, (clips + 1,).
        features: of `energies`, (N, T, F) float32; None where nobody will ask for them.
    """

    energies: NDArray[np.float32] = field(repr=False)
    labels: NDArray[np.int64] = field(repr=False)
    first: NDArray[np.int64] = field(repr=False)
    features: NDArray[np.float32] | None = field(default=None, repr=False)

    def windows(self, clips: Numbers) -> NDArray[np.int64]:
        """How many windows each of `clips` has."""
        counts: NDArray[np.int64] = self.first[clips + 1] - self.first[clips]
        return counts

    def of(self, clips: Numbers) -> FeatureSet:
        """The windows of `clips`, in that order and numbered so (`clip_index`).

        Where they lie one after the other they are not copied but read as they are used, and read-only.
        """
        counts = self.windows(clips)
        clip_index = np.repeat(np.arange(len(clips)), counts)
        windows = self._places(clips, counts)
        features = None if self.features is None else self.features[windows]
        return FeatureSet(self.energies[windows], self.labels[windows], clip_index, features=features)

    def _places(self, clips: Numbers, counts: NDArray[np.int64]) -> slice | NDArray[np.int64]:
        """The windows of `clips`, each of which has `counts`."""
        starts = self.first[clips]
        if len(clips) and np.array_equal(starts[1:], self.first[clips[:-1] + 1]):
            return slice(int(starts[0]), int(starts[0] + counts.sum()))
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        places: NDArray[np.int64] = np.repeat(starts, counts) + within
        return places


def with_features(data: FeatureSet, task: Task) -> FeatureSet:
    """`data` with the features of its windows, computed if need be."""
    if data.features is not None:
        return data
    nothing = np.empty((0, task.clip_frames, task.front_end.features), np.float32)
    return replace(data, features=np.concatenate([nothing, *_features(data.energies, task)]))


def features_file(energies: NDArray[np.float32], name: str, task: Task, cache: Path) -> Path:
    """The file of the features of `energies`, (N, T, F) float32: from `cache`, or computed now.

    Args:
        name: names these energies exactly.

    Raises:
        StorageError: FA-8001.
    """
    path = make_folder(cache, mode=0o700) / f"{name}.npy"
    if not path.exists():
        shape = (len(energies), task.clip_frames, task.front_end.features)
        with open_atomic(path, mode=0o600) as file:
            np.lib.format.write_array_header_1_0(
                file, {"descr": "<f4", "fortran_order": False, "shape": shape}
            )
            for batch in _features(energies, task):
                file.write(batch.tobytes())
    return path


def mapped(path: Path) -> NDArray[Any]:
    """The array in `path`, which must not be empty; read from disk as it is used."""
    # As a plain array: numpy's memmap adds nothing but time to every access.
    array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)
    return array


@torch.inference_mode()
def _features(energies: NDArray[np.float32], task: Task) -> Iterator[NDArray[np.float32]]:
    front_end = BatchFrontEnd(task.front_end)
    for start in range(0, len(energies), _BATCH):
        yield front_end.normalise(torch.from_numpy(np.array(energies[start : start + _BATCH]))).numpy()
