"""The folder of sounds that a listener has kept: `<id>.wav`, 16 kHz, mono, 16 bit, and `<id>.json` about it.

A sound is there when its JSON file is, which is written last and holds the digest of the sound: what a crash
or a power cut leaves behind is not taken for a sound. Needs nothing but numpy, for the listener is small.
"""

from __future__ import annotations

import io
import re
import time
import wave
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AwareDatetime, Field, ValidationError

from common.audio.front_end import SAMPLE_RATE
from common.files import make_folder, sha256, storage_error, sync_folder, write_atomic
from common.settings import Settings

Samples = NDArray[np.int16]

_ID = re.compile(r"[0-9a-f]{16}")

_WRITING_SECONDS = 60.0
"""A file that belongs to no sound and is younger may be one that is being written."""


class Heard(Settings):
    """What is known of a sound that was kept.

    Attributes:
        id: of the event it is the sound of; a window for self-training has one of its own.
        kind: which of the two it is.
        label: what the model took it for.
        score: in [0, 1].
        version: the release that heard it.
        time: when.
        event: for a window, the event that was reported of the same stretch of sound, if any.
    """

    id: str = Field(pattern=r"^[0-9a-f]{16}$")
    kind: Literal["event", "window"]
    label: str
    score: float
    version: int
    time: AwareDatetime
    event: str | None = None


class _Written(Heard):
    """A sound's JSON file."""

    sha256: str


class HeardFolder:
    """Sounds by their id. Other processes may add and remove some meanwhile.

    Args:
        root: the folder; made, for its owner alone, when the first sound is added.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def add(self, heard: Heard, samples: Samples) -> None:
        """Keep `samples` (n,).

        Raises:
            StorageError: FA-8001; nothing is kept.
        """
        make_folder(self._root, mode=0o700)
        sound = _to_wav(samples)
        facts = _Written(**heard.model_dump(), sha256=sha256(sound))
        write_atomic(self.sound(heard.id), sound, 0o600, lasting=False)
        write_atomic(self._facts(heard.id), facts.model_dump_json().encode(), 0o600, lasting=False)

    def __iter__(self) -> Iterator[Heard]:
        """What is known of each sound, in order of time."""
        found = (self.find(file.stem) for file in self._root.glob("[!.]*.json"))
        return iter(sorted((heard for heard in found if heard), key=lambda heard: (heard.time, heard.id)))

    def find(self, name: str) -> Heard | None:
        """What is known of the sound `name`; None if there is none, or it is not whole."""
        read = self._read(name)
        return read and read[0]

    def samples(self, name: str) -> Samples | None:
        """The sound `name`, (n,); None as with `find`."""
        read = self._read(name)
        if read is None:
            return None
        with wave.open(io.BytesIO(read[1])) as file:
            return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.int16)

    def sound(self, name: str) -> Path:
        """The sound file of `name`."""
        return self._root / f"{name}.wav"

    def remove(self, name: str) -> None:
        """Delete the sound `name`, if it is there.

        Raises:
            StorageError: FA-8001.
        """
        try:
            for file in (self._facts(name), self.sound(name)):
                file.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(f"{self.sound(name)} could not be deleted", error) from error

    def clear(self) -> int:
        """Delete everything in the folder, and say how many sounds that were.

        Raises:
            StorageError: FA-8001.
        """
        count = len(list(self._root.glob("[!.]*.wav")))
        try:
            for file in [*self._root.glob("*.json"), *self._root.glob("*")]:
                file.unlink(missing_ok=True)
            if self._root.exists():
                sync_folder(self._root)
        except OSError as error:
            raise storage_error(f"{self._root} could not be emptied", error) from error
        return count

    def trim(self, most_bytes: float, most_days: float) -> int:
        """Delete what is older than `most_days`, then the oldest until `most_bytes` are not exceeded.

        What a writer that was killed has left goes too. What cannot be deleted stays.

        Returns:
            The bytes that are left.
        """
        oldest = datetime.now(UTC) - timedelta(days=most_days)
        sizes = {}
        for name, heard, size, changed in self._files():
            if heard is None and time.time() - changed > _WRITING_SECONDS:
                self._drop(name)
            else:
                sizes[name] = (heard.time if heard else datetime.now(UTC), size)
        left = sum(size for _, size in sizes.values())
        for name, (when, size) in sorted(sizes.items(), key=lambda item: item[1][0]):
            if when >= oldest and left <= most_bytes:
                break
            self._drop(name)
            left -= size
        return left

    def _files(self) -> Iterator[tuple[str, Heard | None, int, float]]:
        """Each name that has files: what is known of it, its bytes, and when it was last changed."""
        stats: dict[str, list[tuple[int, float]]] = {}
        for file in self._root.glob("*"):
            with suppress(OSError):
                status = file.stat()
                # A file that is being written has a name of its own, which begins with a dot.
                name = file.name if file.name.startswith(".") else file.stem
                stats.setdefault(name, []).append((status.st_size, status.st_mtime))
        for name, found in stats.items():
            heard = self._facts_of(name)
            yield name, heard, sum(size for size, _ in found), max(changed for _, changed in found)

    def _drop(self, name: str) -> None:
        with suppress(OSError):
            for file in (self._facts(name), self.sound(name), self._root / name):
                file.unlink(missing_ok=True)

    def _read(self, name: str) -> tuple[Heard, bytes] | None:
        facts = self._facts_of(name)
        if facts is None:
            return None
        try:
            sound = self.sound(name).read_bytes()
        except OSError:
            return None
        return (facts, sound) if sha256(sound) == facts.sha256 else None

    def _facts_of(self, name: str) -> _Written | None:
        if not _ID.fullmatch(name):
            return None
        try:
            facts = _Written.model_validate_json(self._facts(name).read_bytes())
        except (OSError, ValidationError):
            return None
        return facts if facts.id == name else None

    def _facts(self, name: str) -> Path:
        return self._root / f"{name}.json"


def _to_wav(samples: Samples) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(samples.astype("<i2").tobytes())
    return out.getvalue()
