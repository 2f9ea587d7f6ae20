"""Clips as windows of band energies, ready to train on.

Energies rather than normalised features, because gain, shift and added noise can be applied to them (powers
add in expectation); so no augmentation reads a sound file again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.data.clips import Clips, background_files
from common.data.energy_cache import load_energies
from common.errors import DataError
from common.task import Task

Windows = NDArray[np.int64]
"""Indices of windows of a data set."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Windows of clips.

    Args:
        energies: linear band powers, (N, T, bands) float32; read-only, and read from disk as it is used.
        labels: position of each window's label in the task, (N,) int64; -1 where there is none.
        clip_index: position of the window's clip in the collection, (N,) int64.
        skipped: file and reason, for each clip that could not be used.
        features: what the task's front end makes of `energies`, (N, T, F) float32, where that is known
            already; else it is computed whenever it is needed.
        recordings, speakers: a number for the recording each window was cut from and for who speaks in it,
            (N,) int64; -1 where that is not known, None where it is of no window.
    """

    energies: NDArray[np.float32]
    labels: NDArray[np.int64]
    clip_index: NDArray[np.int64]
    skipped: tuple[tuple[str, str], ...] = ()
    features: NDArray[np.float32] | None = None
    recordings: NDArray[np.int64] | None = None
    speakers: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> FeatureSet:
        """The windows at `indices` in that order, copied into memory."""
        chosen = np.asarray(indices, dtype=np.int64)
        return FeatureSet(
            self.energies[chosen],
            self.labels[chosen],
            self.clip_index[chosen],
            self.skipped,
            None if self.features is None else self.features[chosen],
            None if self.recordings is None else self.recordings[chosen],
            None if self.speakers is None else self.speakers[chosen],
        )


def load_features(clips: Clips, task: Task, cache: Path) -> FeatureSet:
    """Windows of `clips`, in their order, with the task's front end and clip length; see `load_energies`.

    A clip is skipped, and named in `skipped`, if its file is damaged or the task does not have its label.

    Args:
        cache: folder of computed energies; a second call reads no sound.

    Raises:
        DataError: FA-2007, no clip can be used.
        StorageError: FA-8001, the cache cannot be written.
    """
    place = {label: position for position, label in enumerate(task.labels)}
    wanted = [index for index, clip in enumerate(clips) if clip.label in place]
    strange = [(str(c.path), f"The task has no label {c.label!r}.") for c in clips if c.label not in place]
    energies = load_energies([clips[index].path for index in wanted], task, cache)
    damaged = [
        (str(clips[index].path), fault) for index, fault in zip(wanted, energies.faults, strict=True) if fault
    ]
    skipped = (*damaged, *strange)
    if len(skipped) == len(clips):
        raise DataError(
            "FA-2007",
            f"No usable clips: of {len(clips)}, {len(strange)} have a label the task does not have and "
            f"{len(damaged)} are damaged{''.join(f' ({file}: {fault})' for file, fault in damaged[:1])}.",
            f"Add sound files with the task's labels: {', '.join(task.labels[:10])}.",
        )
    if skipped:
        _log.warning("%d of %d clips skipped, the first: %s: %s", len(skipped), len(clips), *skipped[0])
    labels = np.array([place[clips[index].label] for index in wanted], dtype=np.int64)
    return FeatureSet(
        energies.rows,
        np.repeat(labels, energies.windows),
        np.repeat(np.array(wanted, dtype=np.int64), energies.windows),
        skipped,
        recordings=np.repeat(_numbered([clips[index].group for index in wanted]), energies.windows),
        speakers=np.repeat(_numbered([clips[index].speaker for index in wanted]), energies.windows),
    )


def load_background(path: Path, task: Task, cache: Path) -> FeatureSet | None:
    """Windows of the noise that comes with the collection at `path`, to mix into clips; all labels are -1.

    It is in a folder `_background_noise_` (Speech Commands) or `background_noise` in the collection's folder,
    or beside its manifest. None if there is no usable noise.

    Raises:
        DataError: FA-2006, a file name is not Unicode.
        StorageError: FA-8001, the cache cannot be written.
    """
    files = background_files(path)
    energies = load_energies(files, task, cache)
    skipped = tuple((str(file), fault) for file, fault in zip(files, energies.faults, strict=True) if fault)
    if skipped:
        _log.warning("%d of %d noise files skipped, the first: %s: %s", len(skipped), len(files), *skipped[0])
    if len(skipped) == len(files):
        return None
    clip_index = np.repeat(np.arange(len(files), dtype=np.int64), energies.windows)
    return FeatureSet(energies.rows, np.full_like(clip_index, -1), clip_index, skipped)


def _numbered(names: Sequence[str | None]) -> NDArray[np.int64]:
    """A number for each name, the same for the same; -1 for None."""
    number = {name: place for place, name in enumerate(dict.fromkeys(names))} | {None: -1}
    return np.array([number[name] for name in names], dtype=np.int64)
