"""Copying sound files into a device's own folder of clips, in the one form everything else reads."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from common.audio.front_end import SAMPLE_RATE
from common.audio.reading import read_audio
from common.data.clips import (
    NOISE_FOLDERS,
    Clips,
    Imported,
    background_files,
    imported_from,
    imported_name,
    labelled_files,
)
from common.errors import AudioError
from common.files import make_folder, sha256, write_atomic


@dataclass(frozen=True)
class ImportReport:
    """What became of each clip: imported, there already, or skipped (file, reason)."""

    imported: int
    duplicates: int
    skipped: tuple[tuple[str, str], ...]


def import_clips(
    source: Clips, destination: Path, *, progress: Callable[[int, int], None] | None = None
) -> ImportReport:
    """Copy each clip, whole, to `destination/<label>/<speaker or "-">_<digest>.flac`: 16 kHz, mono, 16 bit.

    The digest is that of the samples, so a sound is imported once whatever its file's name or format, and an
    import that was interrupted goes on when it is run again. A file that cannot be read is skipped, and so is
    a sound that is already there under another label. Folders and files are readable by their owner alone.

    Args:
        progress: called after each clip with the number done and the number of all.

    Raises:
        StorageError: FA-8001, `destination` is full or read-only; what was imported until then stays.
    """
    labels = _labels_by_digest(make_folder(destination, mode=0o700))
    imported = duplicates = 0
    skipped = []
    for done, clip in enumerate(source, start=1):
        try:
            samples = _to_int16(read_audio(clip.path))
        except AudioError as error:
            skipped.append((str(clip.path), error.happened))
        else:
            digest = sample_digest(samples)
            there = labels.get(digest)
            if there is None:
                write_clip(samples, destination / clip.label / imported_name(Imported(clip.speaker, digest)))
                labels[digest] = clip.label
                imported += 1
            elif there == clip.label:
                duplicates += 1
            else:
                skipped.append((str(clip.path), f"The same sound is there with the label {there!r}."))
        if progress:
            progress(done, len(source))
    return ImportReport(imported, duplicates, tuple(skipped))


def sample_digest(samples: NDArray[np.int16]) -> str:
    """What an imported clip is known by: 16 hexadecimal digits."""
    return sha256(samples.tobytes())[:16]


def write_clip(samples: NDArray[np.int16], path: Path) -> None:
    """Write `samples` (n,) at 16 kHz as FLAC, for its owner alone, with the folder it is in.

    Raises:
        StorageError: FA-8001.
    """
    make_folder(path.parent, mode=0o700)
    write_atomic(path, _to_flac(samples), mode=0o600)


def import_background(source: Path, destination: Path) -> int:
    """Copy the background noise that comes with the collection at `source`, if any, beside the clips.

    Returns:
        Number of recordings copied; those that are there already and damaged ones do not count.

    Raises:
        StorageError: FA-8001.
    """
    copied = 0
    for file in background_files(source):
        try:
            samples = _to_int16(read_audio(file))
        except AudioError:
            continue
        path = destination / NOISE_FOLDERS[0] / f"{sample_digest(samples)}.flac"
        if not path.exists():
            write_clip(samples, path)
            copied += 1
    return copied


def _labels_by_digest(destination: Path) -> dict[str, str]:
    """Label of each clip imported before, by the digest of its samples."""
    names = ((folder.name, imported_from(file.name)) for folder, file in labelled_files(destination))
    return {name.digest: label for label, name in names if name}


def _to_int16(samples: NDArray[np.float32]) -> NDArray[np.int16]:
    """Samples as 16-bit numbers, exactly those of a 16-bit file at this rate; they end at full scale."""
    scaled: NDArray[np.float32] = np.rint(samples * np.float32(32768))
    return scaled.clip(-32768, 32767).astype(np.int16)


def _to_flac(samples: NDArray[np.int16]) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return file.getvalue()
