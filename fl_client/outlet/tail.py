"""Follows events.jsonl as it is written, begun anew, cut off or not yet there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from fl_client.outlet.lines import Line, parse_line

KEPT = 1000
"""Latest messages that are kept in memory."""

HISTORY = 1 << 20
"""Bytes at the end of a file in which the messages from before are looked for."""

LONGEST_LINE = 1 << 16

CHUNK = 1 << 18

CHECKED = 4096
"""Bytes that were read last and must be there still, or else the file was cut off and written anew."""


class Tail:
    """The messages that are appended to a log from now on, each once.

    The log and the one before it, `<name>.1`, are held open, so that a log that was begun anew is known from
    one that was only renamed, and so that what is still written to the old one is read. Only a log that was
    begun and lost both names between two calls of `poll` is missed.

    Attributes:
        before: the latest `KEPT` messages that were there already.
        damaged: lines that were no messages.
    """

    def __init__(self, path: Path) -> None:
        self._paths = (path.with_name(f"{path.name}.1"), path)
        self._files = [_File(file, HISTORY) for file in map(_open, self._paths) if file is not None]
        self.damaged = 0
        self.before = self._messages()[-KEPT:]

    def poll(self) -> list[Line]:
        """The messages since the last call."""
        # From the newer to the older: a log that is renamed meanwhile is found twice and not missed.
        current, older = map(_open, reversed(self._paths))
        found: list[_File] = []
        for file in (older, current):
            if file is None:
                continue
            known = next((one for one in [*self._files, *found] if one.is_same(file)), None)
            if known is None:
                found.append(_File(file))
            else:
                file.close()
                if known not in found:
                    found.append(known)
        gone = [file for file in self._files if file not in found]
        # A log that has lost its name is read to its end before it is let go.
        self._files = [*gone, *found]
        lines = self._messages()
        if current is not None:
            self._files = found
            for lost in gone:
                self.damaged += lost.close()
        return lines

    def close(self) -> None:
        """Let go of the files."""
        for file in self._files:
            file.close()

    def _messages(self) -> list[Line]:
        lines = [parse_line(data) for file in self._files for data in file.read()]
        messages = [line for line in lines if line is not None]
        self.damaged += len(lines) - len(messages)
        return messages


class _File:
    """A log that is held open, read up to a place.

    Args:
        last: bytes at its end to begin with, from the next whole line on; None for all of it.
    """

    def __init__(self, file: BinaryIO, last: int | None = None) -> None:
        self._file = file
        self._place = 0
        self._torn = b""
        self._seen = b""
        size = os.fstat(file.fileno()).st_size
        if last is not None and size > last:
            file.seek(size - last)
            self._place = size - last + len(file.readline())

    def is_same(self, other: BinaryIO) -> bool:
        return os.path.sameopenfile(self._file.fileno(), other.fileno())

    def read(self) -> list[bytes]:
        """The lines that were ended since the last call."""
        lines: list[bytes] = []
        if self._was_cut_off():
            lines, self._place, self._torn, self._seen = [self._torn] * bool(self._torn), 0, b"", b""
        while data := os.pread(self._file.fileno(), CHUNK, self._place):
            self._place += len(data)
            self._seen = (self._seen + data)[-CHECKED:]
            *ended, self._torn = (self._torn + data).split(b"\n")
            lines += filter(bytes.strip, ended)
            if len(self._torn) > LONGEST_LINE:
                lines, self._torn = [*lines, self._torn[:1]], b""
        return lines

    def close(self) -> bool:
        """Let go of the file, and say whether its last line was not ended."""
        self._file.close()
        return bool(self._torn)

    def _was_cut_off(self) -> bool:
        start = self._place - len(self._seen)
        return os.pread(self._file.fileno(), len(self._seen), start) != self._seen


def _open(path: Path) -> BinaryIO | None:
    try:
        return path.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        return None
