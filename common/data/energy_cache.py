"""Band energies of sound files, computed once and kept in a memory-mapped file.

A cache folder holds two files for each collection: `<name>.npy` with the energies and `<name>.json`, a table
of the sound files and their rows. The name is a digest of front end, window and each file's path, size and
time of change, so a change anywhere leads to another name. The table is written last and holds the digest
of the energies: what a crash or a bad disk leaves behind does not fit, and is made anew.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from common.audio.batch import BatchFrontEnd
from common.audio.front_end import SAMPLE_RATE
from common.audio.reading import read_audio
from common.data.windows import cut_windows
from common.errors import AudioError
from common.files import StorageError, make_folder, open_atomic, sha256, write_atomic
from common.settings import Settings
from common.task import Task

_BATCH_SAMPLES = 8 * SAMPLE_RATE
"""Sound transformed at once; more leaves the processor's cache, and takes twice the time for a minute."""


@dataclass(frozen=True, eq=False)
class Energies:
    """Rows of band energies, and how they belong to the files asked for.

    Args:
        rows: linear band powers, (N, T, bands) float32, memory-mapped, read-only, in the order of the files.
        windows: rows of each file; 0 for one that could not be used.
        faults: why not, for each file; empty where it could.
    """

    rows: NDArray[np.float32]
    windows: tuple[int, ...]
    faults: tuple[str, ...]


class _State(Settings):
    """A file as it was when it was read. One that is not there has size -1."""

    path: str
    size: int
    changed_ns: int


class _Entry(Settings):
    """What reading a file gave: windows or a fault."""

    state: _State
    windows: int = Field(0, ge=0)
    fault: str = ""


class _Table(Settings):
    """The entries of an energies file, in the order of its rows, and its digest."""

    sha256: str
    entries: tuple[_Entry, ...]


_Found = tuple[_Table, NDArray[np.float32]]


def load_energies(files: Sequence[Path], task: Task, cache: Path) -> Energies:
    """Energies of `files` in windows of the task's clip length, from the cache if nothing has changed.

    Otherwise only files that were not in the folder's newest collection, or have changed, are read.

    Args:
        files: sound files; a damaged one is skipped.
        cache: folder, made if it is not there; what it holds is readable by its owner alone.

    Raises:
        StorageError: FA-8001, the cache cannot be written.
    """
    if not files:
        return Energies(np.empty((0, task.clip_frames, task.front_end.bands), np.float32), (), ())
    states = [_state(file) for file in files]
    folder = os.path.commonpath([Path(state.path).parent for state in states])
    family = f"{task.front_end.digest[:16]}-{task.clip_samples}-{sha256(folder.encode())[:16]}"
    name = sha256("\n".join(state.model_dump_json() for state in states).encode())[:32]
    stem = make_folder(cache, mode=0o700) / f"{family}-{name}"
    found = _open(stem, task)
    if found is None or [entry.state for entry in found[0].entries] != states:
        earlier = _newest(cache, family)
        old = _open(earlier, task) if earlier else None
        _build(stem, files, states, task, old)
        if earlier and earlier != stem and _superseded(old, states):
            earlier.with_suffix(".json").unlink(missing_ok=True)
            earlier.with_suffix(".npy").unlink(missing_ok=True)
        found = _open(stem, task)
        if found is None:
            raise StorageError(
                "FA-8001", f"What was written to {cache} could not be read back.", "Check the disk."
            )
    table, rows = found
    return Energies(
        rows, tuple(entry.windows for entry in table.entries), tuple(entry.fault for entry in table.entries)
    )


def forget_older(cache: Path, *, keep: int) -> None:
    """Remove from `cache` all but the `keep` front ends and clip lengths that were computed last.

    What a writer that was killed has left goes too, so nobody else may write to `cache` meanwhile.
    """
    tables = sorted(cache.glob("[!.]*.json"), key=lambda table: table.stat().st_mtime_ns, reverse=True)
    kept = list(dict.fromkeys(_kind(table) for table in tables))[:keep]
    for file in cache.glob("*"):
        if file.is_file() and _kind(file) not in kept:
            with suppress(OSError):  # a disk that cannot be written is told of by who must write
                file.unlink()


def forget_gone(cache: Path) -> None:
    """Remove from `cache` the collections that have energies of a file that is not there any more.

    Nobody else may write to `cache` meanwhile.
    """
    for path in cache.glob("[!.]*.json"):
        with suppress(OSError, ValueError):
            table = _Table.model_validate_json(path.read_bytes())
            if not all(Path(entry.state.path).exists() for entry in table.entries):
                path.unlink()
                path.with_suffix(".npy").unlink(missing_ok=True)


def _kind(file: Path) -> str:
    """Front end and clip length in the name of a file of a cache."""
    return file.name.rsplit("-", 2)[0]


def _state(file: Path) -> _State:
    path = str(file.absolute())
    try:
        status = file.stat()
    except OSError:
        return _State(path=path, size=-1, changed_ns=0)
    return _State(path=path, size=status.st_size, changed_ns=status.st_mtime_ns)


def _open(stem: Path, task: Task) -> _Found | None:
    """A cached collection, or None if it is not there or not whole."""
    try:
        table = _Table.model_validate_json(stem.with_suffix(".json").read_bytes())
        if _digest(stem.with_suffix(".npy")) != table.sha256:
            return None
        count = sum(entry.windows for entry in table.entries)
        # A file without rows cannot be mapped.
        rows = np.load(stem.with_suffix(".npy"), mmap_mode="r" if count else None, allow_pickle=False)
    except (OSError, ValueError):  # pydantic's ValidationError is a ValueError
        return None
    fits = rows.shape == (count, task.clip_frames, task.front_end.bands) and rows.dtype == np.float32
    return (table, rows) if fits else None


def _newest(cache: Path, family: str) -> Path | None:
    """The collection of the same front end, window and folder that was made last."""
    tables = list(cache.glob(f"{family}-*.json"))
    try:
        return max(tables, key=lambda table: table.stat().st_mtime_ns).with_suffix("") if tables else None
    except FileNotFoundError:  # removed by another process meanwhile
        return None


def _build(
    stem: Path, files: Sequence[Path], states: Sequence[_State], task: Task, earlier: _Found | None
) -> None:
    """Write the collection `stem`, with the rows of `earlier` for files that are as they were."""
    front_end = BatchFrontEnd(task.front_end)
    kept = dict(_rows_by_state(*earlier)) if earlier else {}
    entries = []
    energies = stem.with_suffix(".npy")
    with open_atomic(energies, mode=0o600) as out:
        _write_header(out, 0, task)
        for file, state in zip(files, states, strict=True):
            windows, fault = 0, ""
            try:
                for rows in kept[state] if state in kept else _read(file, task, front_end):
                    out.write(rows.astype("<f4", copy=False).tobytes())
                    windows += len(rows)
            except AudioError as error:
                fault = error.happened
            entries.append(_Entry(state=state, windows=windows, fault=fault))
        out.seek(0)
        _write_header(out, sum(entry.windows for entry in entries), task)
    table = _Table(sha256=_digest(energies), entries=tuple(entries))
    write_atomic(stem.with_suffix(".json"), table.model_dump_json().encode(), mode=0o600)


def _rows_by_state(
    table: _Table, rows: NDArray[np.float32]
) -> Iterator[tuple[_State, list[NDArray[np.float32]]]]:
    """Rows of each file that could be used; one that could not is worth another try."""
    first = 0
    for entry in table.entries:
        if entry.windows:
            yield entry.state, [rows[first : first + entry.windows]]
        first += entry.windows


def _read(file: Path, task: Task, front_end: BatchFrontEnd) -> Iterator[NDArray[np.float32]]:
    """Energies of a file's windows, some seconds of sound at a time.

    Raises:
        AudioError: the file cannot be used.
    """
    windows = cut_windows(read_audio(file), task.clip_samples)
    step = max(1, _BATCH_SAMPLES // task.clip_samples)
    for start in range(0, len(windows), step):
        with torch.inference_mode():
            yield front_end.energies(torch.from_numpy(windows[start : start + step])).numpy()


def _write_header(file: BinaryIO, count: int, task: Task) -> None:
    """Write the header of `count` rows; numpy leaves room in it, so its length is the same for any count."""
    shape = (count, task.clip_frames, task.front_end.bands)
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _superseded(old: _Found | None, states: Sequence[_State]) -> bool:
    """Whether each file of a collection is among `states` or gone, so that nobody asks for it again."""
    paths = {state.path for state in states}
    return old is None or all(
        entry.state.path in paths or not Path(entry.state.path).exists() for entry in old[0].entries
    )
