"""All the sound that a device has stored: what it is, and how it is deleted with everything made from it."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import soundfile

from common.data.clips import background_files, imported_from, labelled_files
from common.errors import DeviceError
from common.files import locked, sha256, storage_error
from fl_client.heard import HeardFolder
from fl_client.home import DeviceHome

UNKNOWN_LABEL = "-"
"""Stands for the label of what is too damaged to tell."""

Origin = Literal["imported", "feedback", "kept", "self"]


@dataclass(frozen=True)
class StoredClip:
    """A sound on the device's disk.

    Attributes:
        id: of an event, for its sound as it was kept and for the clip that feedback made of it.
        label: its own; of a sound that only the model has named, the model's.
        seconds: None if it cannot be read.
        origin: "imported" and "feedback" are labelled clips; "kept", the sound of an event, is not learned
            from before there is feedback on it; "self" is a window for self-training.
        date: when it was stored.
        speaker: if known.
        stretch: of what the listener heard; the same for sounds that overlap.
    """

    id: str
    label: str
    seconds: float | None
    origin: Origin
    date: datetime
    speaker: str | None
    path: Path
    stretch: str | None = None


def stored_clips(home: DeviceHome) -> list[StoredClip]:
    """All sound that is stored, by label and date.

    Raises:
        StorageError: FA-8001.
    """
    found = [*_labelled(home.clips), *_heard(HeardFolder(home.heard))]
    return sorted(found, key=lambda clip: (clip.label, clip.date, clip.id))


def clips_of(clips: Path, event: str) -> list[Path]:
    """The clips that feedback on `event` has made."""
    return [path for path in clips.glob("*/*.flac") if _event_of(path) == event]


def delete_clips(home: DeviceHome, ids: Collection[str]) -> int:
    """Delete the sounds with these ids, and what was computed from them; how many they were.

    With an event go the windows for self-training in which it is heard, too.

    Raises:
        DeviceError: FA-4255, there is none of an id; nothing is deleted.
        StorageError: FA-8001.
    """
    with locked(home.clips_lock):
        stored = stored_clips(home)
        clips = [clip for clip in stored if clip.id in ids]
        if unknown := sorted(set(ids) - {clip.id for clip in clips}):
            raise DeviceError(
                "FA-4255",
                f"There is no clip {unknown[0]!r} on this device.",
                "Take an id from `fedaudio client clips list`.",
            )
        stretches = {clip.stretch for clip in clips if clip.origin in ("kept", "feedback")} - {None}
        clips += [
            clip
            for clip in stored
            if clip.origin == "self" and clip.stretch in stretches and clip not in clips
        ]
        folder = HeardFolder(home.heard)
        for name in {clip.id for clip in clips if clip.origin in ("kept", "self")}:
            folder.remove(name)
        delete_files(home, [clip.path for clip in clips if clip.origin in ("imported", "feedback")])
        forget_features(home)
    return len(clips)


def purge_kept(home: DeviceHome) -> int:
    """Delete all that the listener has kept, and what was computed from it; how many sounds they were.

    Clips that feedback has made of some stay.

    Raises:
        StorageError: FA-8001.
    """
    with locked(home.clips_lock):
        count = HeardFolder(home.heard).clear()
        forget_features(home)
    return count


def purge_all(home: DeviceHome) -> int:
    """Delete all sound on the device, and what was computed from it; how many sounds they were.

    Raises:
        StorageError: FA-8001.
    """
    with locked(home.clips_lock):
        count = len(stored_clips(home))
        HeardFolder(home.heard).clear()
        try:
            for path in home.clips.glob("*"):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
        except OSError as error:
            raise storage_error(f"{home.clips} could not be emptied", error) from error
        forget_features(home)
    return count


def delete_files(home: DeviceHome, files: Iterable[Path]) -> None:
    """Delete clips; label folders that are empty then go too.

    Raises:
        StorageError: FA-8001.
    """
    for file in files:
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(f"{file} could not be deleted", error) from error
        if file.parent != home.clips:
            with suppress(OSError):  # there are others in it
                file.parent.rmdir()


def forget_features(home: DeviceHome) -> None:
    """Delete all that was computed from sounds and stored; the next round computes again what it needs.

    Raises:
        StorageError: FA-8001.
    """
    for cache in (home.cache, home.cache / "background"):
        for file in cache.glob("*"):
            if file.is_file():
                try:
                    file.unlink(missing_ok=True)
                except OSError as error:
                    raise storage_error(f"{file} could not be deleted", error) from error


def _labelled(clips: Path) -> Iterator[StoredClip]:
    if not clips.is_dir():
        return
    noise = ((file.parent, file) for file in background_files(clips))
    for folder, path in [*labelled_files(clips), *noise]:
        name = imported_from(path.name)
        by_path = sha256(f"{folder.name}/{path.name}".encode())[:16]
        with suppress(FileNotFoundError):
            yield StoredClip(
                id=by_path if name is None else name.event or name.digest,
                label=folder.name,
                seconds=_seconds(path),
                origin="feedback" if name is not None and name.event else "imported",
                date=datetime.fromtimestamp(path.stat().st_mtime, UTC),
                speaker=name and name.speaker,
                path=path,
                stretch=name and name.stretch,
            )


def _heard(folder: HeardFolder) -> Iterator[StoredClip]:
    for heard in folder:
        path = folder.sound(heard.id)
        origin: Origin = "kept" if heard.kind == "event" else "self"
        yield StoredClip(heard.id, heard.label, _seconds(path), origin, heard.time, None, path, heard.stretch)
    for name, date in folder.damaged():
        yield StoredClip(name, UNKNOWN_LABEL, None, "kept", date, None, folder.sound(name))


def _seconds(path: Path) -> float | None:
    try:
        return round(float(soundfile.info(str(path)).duration), 3)
    except (soundfile.LibsndfileError, OSError):
        return None


def _event_of(path: Path) -> str | None:
    name = imported_from(path.name)
    return name and name.event
