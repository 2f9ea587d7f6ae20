"""Messages for whoever asks the API: the latest, and each as it comes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from fl_client.outlet.latest import Latest
from fl_client.outlet.lines import Line
from fl_client.outlet.tail import KEPT

WAITING = 256
"""Messages that may wait for a reader; one that is later still is dropped."""


class Page(NamedTuple):
    """Messages, oldest first.

    Attributes:
        complete: whether none is missing between the one that was named and the first of these.
    """

    lines: list[Line]
    complete: bool


class Reader:
    """Takes messages as they come; of those that came too fast it knows only how many there were."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[Line] = asyncio.Queue(WAITING)
        self.missed = 0

    def offer(self, line: Line) -> None:
        """Add a message, without ever waiting."""
        if self.missed or self._waiting.full():
            self.missed += 1
        else:
            self._waiting.put_nowait(line)

    async def take(self) -> Line | None:
        """The next message; None when the next one was missed."""
        if self.missed and self._waiting.empty():
            return None
        return await self._waiting.get()


class Feed:
    """For one event loop, which alone may use it.

    Args:
        tasks: those that are listened for beside the device's own.

    Attributes:
        recent: the latest `KEPT` messages.
        latest: the newest of each kind.
        dropped: readers that were too slow.
    """

    def __init__(self, before: Sequence[Line] = (), tasks: Iterable[str] = ()) -> None:
        self.recent: deque[Line] = deque(before, maxlen=KEPT)
        self.latest = Latest(tasks, before)
        self._readers: set[Reader] = set()
        self.dropped = 0

    @property
    def readers(self) -> int:
        """How many there are."""
        return len(self._readers)

    def publish(self, line: Line) -> None:
        """Keep a message and give it to all readers."""
        self.recent.append(line)
        self.latest.note(line)
        for reader in self._readers:
            reader.offer(line)

    def page(self, after: str | None, limit: int, kind: str | None) -> Page:
        """At most `limit` messages: the first ones after that with the id `after`, else the latest."""
        lines = list(self.recent)
        places = [place for place, line in enumerate(lines) if line["id"] == after]
        lines = lines[places[-1] + 1 :] if places else lines
        wanted = [line for line in lines if kind is None or line["type"] == kind]
        return Page(wanted[-limit:] if after is None else wanted[:limit], after is None or bool(places))

    @contextmanager
    def reader(self) -> Iterator[Reader]:
        """A new reader, until the block is left."""
        reader = Reader()
        self._readers.add(reader)
        try:
            yield reader
        finally:
            self._readers.remove(reader)
            self.dropped += reader.missed > 0
