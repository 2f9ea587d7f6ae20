"""Several rooms hear one stream of sound."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from fl_client.listen.engine import first_line
from fl_client.listen.events import MAIN, Event, Swap
from fl_client.listen.following import Follower
from fl_client.listen.recognizer import Recognizer
from fl_client.listen.ring import Rows
from fl_client.listen.room import Room

log = logging.getLogger(__name__)


class Hearing:
    """The rooms whose releases are at work, for the thread that listens. All are fed the same blocks.

    Args:
        followers: of all rooms, in the order in which they hear a block. Those who have a recognizer have
            heard nothing yet.
    """

    def __init__(self, followers: Sequence[Follower]) -> None:
        self._followers = followers
        self._at_work = _with_recognizer(followers)
        self._failed: set[tuple[str, int]] = set()

    @property
    def held_seconds(self) -> dict[str, float]:
        """For how long each label has been held so far; one of another task than the device's own comes after
        the name of the task and a slash."""
        return {
            label if room.name == MAIN else f"{room.name}/{label}": seconds
            for room, recognizer in self._at_work
            for label, seconds in recognizer.held_seconds.items()
        }

    def admit(self) -> None:
        """Let rooms take part from now on whose first release has come meanwhile."""
        if len(self._at_work) == len(self._followers):
            return
        hearing = [recognizer for _, recognizer in self._at_work]
        self._at_work = _with_recognizer(self._followers)
        for _, recognizer in self._at_work:
            if recognizer not in hearing:
                recognizer.join(hearing[0])

    def skip(self, samples: int, overruns: int) -> None:
        """As of a `Recognizer`."""
        for _, recognizer in self._at_work:
            recognizer.skip(samples, overruns)

    def feed(self, samples: Rows) -> Iterator[tuple[Room, Recognizer, list[Event]]]:
        """Let one room after the other hear the next samples (n,), at most `pipeline.BLOCK`, and report.

        One whose release fails goes without them; with no other it would be all the listener does, so then it
        is held against the release and raised, and a new process makes a better start.

        Raises:
            Exception: whatever went wrong.
        """
        for room, recognizer in self._at_work:
            try:
                events = recognizer.feed(samples)
            except Exception as error:
                if len(self._at_work) == 1:
                    self._follower_of(room).failed_at_work(first_line(error))
                    raise
                self._tell_of(room, recognizer, error)
                recognizer.miss(samples)
                continue
            yield room, recognizer, events

    def swaps(self) -> list[Swap]:
        """What became of swaps since this was last asked."""
        return [swap for _, recognizer in self._at_work for swap in recognizer.swaps()]

    def _follower_of(self, room: Room) -> Follower:
        return next(one for one in self._followers if one.room is room)

    def _tell_of(self, room: Room, recognizer: Recognizer, error: Exception) -> None:
        """Once for each release: one that fails may do so at every block."""
        release = room.name, recognizer.version
        if release not in self._failed:
            self._failed.add(release)
            self._follower_of(room).failed_at_work(first_line(error))
            log.error("%s: version %d failed and misses what it fails at: %s", *release, first_line(error))


def _with_recognizer(followers: Sequence[Follower]) -> list[tuple[Room, Recognizer]]:
    return [(one.room, one.recognizer) for one in followers if one.recognizer is not None]
