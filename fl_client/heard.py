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
from common.files import (
    locked,
    make_folder,
    read_if_there,
    sha256,
    storage_error,
    sync_folder,
    write_atomic,
)
from common.settings import Settings

Samples = NDArray[np.int16]

_ID = re.compile(r"[0-9a-f]{16}")

_WRITING_SECONDS = 60.0
"""A file that belongs to no sound and is younger may be one that is being written."""

_CLOCKS_ARE_SET = datetime(2024, 1, 1, tzinfo=UTC)
"""What is earlier is by a clock that nobody has set."""


class Heard(Settings):
    """What is known of a sound that was kept.

    Attributes:
        id: of the event it is the sound of; a window for self-training has one of its own.
        kind: which of the two it is.
        label: what the model took it for.
        score: in [0, 1].
        version: the release that heard it.
        time: when.
        stretch: the same for all sounds that overlap in the stream, be it by way of others between them.
    """

    id: str = Field(pattern=r"^[0-9a-f]{16}$")
    kind: Literal["event", "window"]
    label: str
    score: float = Field(allow_inf_nan=False)
    version: int
    time: AwareDatetime
    stretch: str = Field(pattern=r"^[0-9a-f]{16}$")


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
        # Held by who adds or removes; in it, when the folder was last emptied.
        self._lock = root.with_name(f"{root.name}.lock")

    def add(self, heard: Heard, samples: Samples) -> bool:
        """Keep `samples` (n,), unless the folder was emptied after they were heard; whether they are kept.

        Raises:
            StorageError: FA-8001; nothing is kept.
        """
        with locked(self._lock):
            if self._emptied_after(heard.time):
                return False
            make_folder(self._root, mode=0o700)
            sound = _to_wav(samples)
            facts = _Written(**heard.model_dump(), sha256=sha256(sound))
            write_atomic(self.sound(heard.id), sound, 0o600, lasting=False)
            self._write_facts(facts)
        return True

    def __iter__(self) -> Iterator[Heard]:
        """What is known of each sound, in order of time.

        Raises:
            StorageError: FA-8001.
        """
        found = (self.find(file.stem) for file in self._entries() if file.suffix == ".json")
        return iter(sorted((heard for heard in found if heard), key=lambda heard: (heard.time, heard.id)))

    def damaged(self) -> list[tuple[str, datetime]]:
        """Ids of which there is something and no whole sound, and when that was written.

        Raises:
            StorageError: FA-8001.
        """
        return [
            (name, datetime.fromtimestamp(changed, UTC))
            for name, heard, _, changed in self._files()
            if _ID.fullmatch(name) and self.find(name) is None and (heard or not _is_recent(changed))
        ]

    def last_window(self) -> datetime | None:
        """When the newest window for self-training was kept; None if there is none.

        Raises:
            StorageError: FA-8001.
        """
        windows = (heard for _, heard, _, _ in self._files() if heard and heard.kind == "window")
        return max((heard.time for heard in windows), default=None)

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
            with locked(self._lock):
                for file in (self._facts(name), self.sound(name)):
                    file.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(f"{self.sound(name)} could not be deleted", error) from error

    def clear(self) -> int:
        """Delete everything in the folder, and say how many sounds that were.

        What was heard before this and waits to be written is not written any more.

        Raises:
            StorageError: FA-8001.
        """
        with locked(self._lock):
            files = sorted(self._entries(), key=lambda file: file.suffix != ".json")
            try:
                for file in files:
                    file.unlink(missing_ok=True)
                if files:
                    sync_folder(self._root)
                self._lock.write_text(datetime.now(UTC).isoformat())
            except OSError as error:
                raise storage_error(f"{self._root} could not be emptied", error) from error
        return sum(file.suffix == ".wav" and not file.name.startswith(".") for file in files)

    def trim(self, most_bytes: float, most_days: float) -> int:
        """Delete what is older than `most_days`, then the oldest until `most_bytes` are not exceeded.

        What a writer that was killed has left goes too. What cannot be deleted stays. How old a sound is that
        was kept before the clock was set cannot be told; see `date_anew`.

        Returns:
            The bytes that are left.

        Raises:
            StorageError: FA-8001, the folder cannot be read.
        """
        now = datetime.now(UTC)
        oldest = now - timedelta(days=most_days)
        found, left = [], 0
        for name, heard, size, changed in self._files():
            left += size
            if heard is not None or _is_recent(changed):
                found.append((heard.time if heard else now, name, size))
            elif self._drop(name):
                left -= size
        for when, name, size in sorted(found):
            if (left > most_bytes or _CLOCKS_ARE_SET <= when < oldest) and self._drop(name):
                left -= size
        return left

    def date_anew(self, *, of_the_future: bool) -> None:
        """Let sounds of a time that cannot be, for the clock was wrong when they were kept, be of now.

        Call it when the clock has had time to be set.

        Args:
            of_the_future: those, too, which would never grow old. If it is the clock of today that is wrong,
                they would all be too old as soon as it is set.

        Raises:
            StorageError: FA-8001.
        """
        with locked(self._lock):
            now = datetime.now(UTC)
            for _, heard, _, _ in self._files() if now >= _CLOCKS_ARE_SET else ():
                if heard is None:
                    continue
                ahead = of_the_future and heard.time > now + timedelta(days=1)
                if ahead or heard.time < _CLOCKS_ARE_SET:
                    self._write_facts(heard.model_copy(update={"time": now}))

    def _entries(self) -> list[Path]:
        """All that is in the folder."""
        try:
            return list(self._root.iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise storage_error(f"{self._root} could not be read", error) from error

    def _files(self) -> Iterator[tuple[str, _Written | None, int, float]]:
        """Each name that has files: what is known of it, its bytes, and when it was last changed."""
        stats: dict[str, list[tuple[int, float]]] = {}
        for file in self._entries():
            with suppress(OSError):
                status = file.stat()
                # A file that is being written has a name of its own, which begins with a dot.
                name = file.name if file.name.startswith(".") else file.stem
                stats.setdefault(name, []).append((status.st_size, status.st_mtime))
        for name, found in stats.items():
            heard = self._facts_of(name) if len(found) > 1 else None
            yield name, heard, sum(size for size, _ in found), max(changed for _, changed in found)

    def _drop(self, name: str) -> bool:
        """Delete what there is of `name`; whether it is gone."""
        try:
            for file in (self._facts(name), self.sound(name), self._root / name):
                file.unlink(missing_ok=True)
        except OSError:
            return False
        return True

    def _emptied_after(self, heard: datetime) -> bool:
        try:
            emptied = datetime.fromisoformat((read_if_there(self._lock) or b"").decode())
        except ValueError:  # never
            return False
        # If the clock was ahead then, it must not keep out what is heard until that day.
        return heard <= emptied <= datetime.now(UTC)

    def _write_facts(self, facts: _Written) -> None:
        write_atomic(self._facts(facts.id), facts.model_dump_json().encode(), 0o600, lasting=False)

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


def _is_recent(changed: float) -> bool:
    return abs(time.time() - changed) <= _WRITING_SECONDS
