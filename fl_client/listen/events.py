"""What a listener has to tell, and the file it tells it to: one line of JSON for each message."""

from __future__ import annotations

import json
import logging
import os
import secrets
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

log = logging.getLogger(__name__)

LARGEST_LOG = 10_000_000
"""Bytes of messages after which a new file is begun; the one before it is kept."""

MAIN = "main"
"""The task of the device that listens; those of other devices have names of their own."""


Outcome = Literal["swapped", "refused", "rolled-back"]


class Message(Protocol):
    """Anything a listener tells: a frozen dataclass whose fields become the line.

    Attributes:
        kind: names the type of the message; `type` in its line.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]
    kind: ClassVar[str]


@dataclass(frozen=True)
class Event:
    """A label was heard.

    Attributes:
        label: which.
        score: in [0, 1], at the hop that decided.
        start, end: the stretch of sound the score is about, in seconds of stream time, counted in samples.
        version: the release that decided.
        task: of the release.
    """

    kind: ClassVar[str] = "event"
    label: str
    score: float
    start: float
    end: float
    version: int
    task: str = MAIN


@dataclass(frozen=True)
class Swap:
    """What became of a swap.

    Attributes:
        from_version, to_version: the release at work before and the one that was to follow it.
        reason: why, unless all went well.
        at: stream time, in seconds.
        gap_seconds: wall time for which it held up the sound.
        agreement: at so many of the hops at which both were sure they said the same; None if not compared.
        waited_seconds: how long the release stood ready until no trigger was open.
        task: of both releases.
    """

    kind: ClassVar[str] = "swap"
    outcome: Outcome
    from_version: int
    to_version: int
    reason: str = ""
    at: float = 0.0
    gap_seconds: float = 0.0
    agreement: float | None = None
    waited_seconds: float = 0.0
    task: str = MAIN


def line_of(message: Message) -> dict[str, object]:
    """What is written of a message: its type, an id nobody else has, the time of day, and its fields."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return {"type": message.kind, "id": secrets.token_hex(8), "time": now, **asdict(message)}


def append_line(path: Path, line: str) -> None:
    """Append `line` to a file that is its owner's alone; a full one becomes `<name>.1`, in place of the one
    before.

    Raises:
        OSError: it could not be written.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "a", encoding="utf-8") as file:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            file.write("\n")  # a power cut has torn the line before, which must not take this one along
        file.write(line)
        full = file.tell() > LARGEST_LOG
    if full:
        path.replace(path.with_name(f"{path.name}.1"))


class EventLog:
    """Appends messages to a file, one line of JSON each, and repeats them on standard output."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, message: Message) -> str | None:
        """Write `message`, and give the id of its line; None if it could not be written."""
        facts = line_of(message)
        line = json.dumps(facts, ensure_ascii=False) + "\n"
        try:
            append_line(self._path, line)
            sys.stdout.write(line)
            sys.stdout.flush()
        except OSError as error:
            log.warning("an event was not written: %s: %s", error, line.strip())
            return None
        return str(facts["id"])
