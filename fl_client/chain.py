"""Lines that stay as they were written: an append-only table in SQLite; each line vouches for all before.

    digest = SHA-256(digest of the line before | seq (8, big-endian) | text)
    mac    = HMAC-SHA256(key, digest)

The digests show a line that was changed, moved or taken out; the MACs, under a key that is not in the file,
that nobody else has written the chain anew. Neither shows that lines are missing at the end: see
`fl_client.witness`. A line is on the disk when `alone` ends; after a power cut it is there whole or not at
all (WAL, synchronous = FULL).
"""

from __future__ import annotations

import hashlib
import hmac
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from common.errors import DeviceError
from common.files import StorageError, is_there, storage_error, sync_folder

BEGINNING = bytes(32)
"""What the first line has for the digest of the one before it."""

WAIT_SECONDS = 60.0
"""For another process that is in the middle of a line, which takes milliseconds."""

_SCHEMA = """
CREATE TABLE lines (seq INTEGER PRIMARY KEY, text TEXT NOT NULL, digest BLOB NOT NULL, mac BLOB NOT NULL);
CREATE TRIGGER never_changed BEFORE UPDATE ON lines BEGIN SELECT RAISE(ABORT, 'lines are never changed'); END;
CREATE TRIGGER never_removed BEFORE DELETE ON lines BEGIN SELECT RAISE(ABORT, 'lines are never removed'); END;
"""
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_FORMAT}


@dataclass(frozen=True)
class Place:
    """How far a chain goes: the number of its last line, and that line's digest."""

    seq: int = 0
    digest: bytes = BEGINNING


class Chain:
    """The chain in one file. Many processes may use it; one at a time may open it.

    Args:
        path: made if it is not there.
        key: 32 bytes; without them nothing can be written, MACs are not looked at, and no file is made.

    Raises:
        DeviceError: FA-4043, it is no such file.
        StorageError: FA-8001.
    """

    def __init__(self, path: Path, key: bytes | None) -> None:
        self._path, self._key = path, key
        with self._in_words():
            self._database = sqlite3.connect(
                _made(path) if key is not None or is_there(path) else ":memory:",
                timeout=WAIT_SECONDS,
                isolation_level=None,
                check_same_thread=False,
            )
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Leave the file as one, without the log beside it."""
        self._database.close()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep all others from writing; what is appended inside is there together, or not at all.

        Raises:
            DeviceError: FA-4043.
            StorageError: FA-8001.
        """
        with self._in_words():
            self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            with self._in_words():
                self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise

    def append(self, place: Place, text: bytes) -> Place:
        """Put `text` after the last line, which must be at `place`, and return where it is.

        Call it inside `alone`.
        """
        if self._key is None:
            raise ValueError("a chain that was opened without its key is only for reading")
        digest = _digest(place, text)
        row = place.seq + 1, text.decode(), digest, mac_of(self._key, digest)
        with self._in_words():
            self._database.execute("INSERT INTO lines VALUES (?, ?, ?, ?)", row)
        return Place(place.seq + 1, digest)

    def lines(self, after: Place) -> Iterator[tuple[Place, bytes]]:
        """The lines after a place that is known to be right, each checked.

        Raises:
            DeviceError: FA-4043, naming the first line that is not as it was written.
            StorageError: FA-8001.
        """
        place = after
        query = "SELECT seq, text, digest, mac FROM lines WHERE seq > ? ORDER BY seq"
        with self._in_words():
            for seq, text, digest, mac in self._database.execute(query, (after.seq,)):
                if seq != place.seq + 1:
                    raise spoiled(self._path, f"line {place.seq + 1} is missing")
                if not isinstance(text, bytes) or digest != _digest(place, text):
                    raise spoiled(self._path, f"line {seq} was changed, or the one before it")
                if self._key is not None and mac != mac_of(self._key, digest):
                    raise spoiled(self._path, f"line {seq} was not written by this device")
                place = Place(seq, digest)
                yield place, text

    def has(self, place: Place) -> bool:
        """Whether the chain has gone through `place`.

        Raises:
            DeviceError: FA-4043.
            StorageError: FA-8001.
        """
        if place.seq == 0:
            return place.digest == BEGINNING
        query = "SELECT 1 FROM lines WHERE seq = ? AND digest = ?"
        with self._in_words():
            return bool(self._database.execute(query, (place.seq, place.digest)).fetchone())

    def _prepare(self) -> None:
        # As it is on the disk: what is no UTF-8 any more must come to the check of the digests.
        self._database.text_factory = bytes
        with self._in_words():
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            with self.alone():
                if not self._database.execute("SELECT 1 FROM sqlite_schema").fetchone():
                    for statement in _SCHEMA.strip().splitlines():
                        self._database.execute(statement)

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except UnicodeDecodeError as error:
            # SQLite quotes what is wrong in the file, and Python takes it for text.
            raise spoiled(self._path, "its tables make no sense") from error
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", None)
            if code is None:
                raise  # ours, not the file's
            if code & 0xFF in _DAMAGED:
                raise spoiled(self._path, str(error)) from error
            raise StorageError(
                "FA-8001", f"{self._path} could not be used: {error}.", "Free some space, then try again."
            ) from error


def _made(path: Path) -> Path:
    try:
        # SQLite would leave it, and the files that it puts beside it, for others to read.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise storage_error(f"{path} could not be written", error) from error
    sync_folder(path.parent)
    return path


def mac_of(key: bytes, data: bytes) -> bytes:
    """HMAC-SHA256."""
    return hmac.digest(key, data, "sha256")


def spoiled(path: Path, how: str) -> DeviceError:
    """The error of a ledger that is not what was written."""
    return DeviceError(
        "FA-4043",
        f"{path} is damaged: {how}. So it is not known how much privacy this device has spent.",
        "Bring back the newest ledger; if it is lost, enrol the device anew in another folder.",
    )


def _digest(before: Place, text: bytes) -> bytes:
    return hashlib.sha256(before.digest + (before.seq + 1).to_bytes(8, "big") + text).digest()
