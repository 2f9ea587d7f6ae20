"""Keeps the sound of what is heard, where the owner has asked for it, without holding up the listening."""

from __future__ import annotations

import logging
import math
import queue
import secrets
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Literal, Self

import numpy as np

from common.files import StorageError
from fl_client.heard import Heard, HeardFolder, Samples
from fl_client.keep_settings import KeepSettings
from fl_client.listen.events import Event
from fl_client.listen.recognizer import Recognizer
from fl_client.listen.ring import Rows

log = logging.getLogger(__name__)

WAITING = 8
"""Sounds that may wait for a slow disk; further ones are not kept."""

TRIM_SECONDS = 600.0

ENDING_SECONDS = 30.0
"""For what waits at the end, if the disk does not answer; then it is not kept."""

DAY_SECONDS = 86_400.0

_Wish = tuple[Heard, Samples]


class Recorder:
    """Writes sounds in a thread of its own, from `__enter__` to `__exit__`, within the bounds the owner set.

    One thread calls `keep` and `keep_window`, in order of stream time; they never wait. A disk that is full
    or gone costs the sounds that should have gone there, and nothing else.
    """

    def __init__(self, folder: HeardFolder, settings: KeepSettings) -> None:
        self._folder, self._settings = folder, settings
        self._wishes: queue.Queue[_Wish | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._write_all, name="recorder", daemon=True)
        self._kept = self._unwritten = self._lost = 0
        self._stretch, self._stretch_end = "", 0
        self._next_window = 0.0
        self._most = settings.max_mb * 1e6
        self._used, self._trimmed = math.inf, 0.0
        self._began = time.monotonic()
        self._warned = False

    @property
    def counters(self) -> dict[str, int]:
        """Sounds written, and sounds that were not, since the disk was slow, full or gone, or `max_mb` is too
        little for them.
        """
        return {"sounds_kept": self._kept, "sounds_lost": self._lost + self._unwritten}

    def __enter__(self) -> Self:
        self._next_window = self._window_pause()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Write what waits, and end."""
        with suppress(queue.Full):
            self._wishes.put(None, timeout=ENDING_SECONDS)
        self._thread.join(ENDING_SECONDS)
        with suppress(queue.Empty):
            while True:
                self._lost += self._wishes.get_nowait() is not None

    def keep(self, name: str | None, event: Event, recognizer: Recognizer) -> None:
        """Keep the sound of `event`, just reported by `recognizer`, if that is wished.

        Args:
            name: the event's id in the log; None if it was not written there, where nobody can point at it.
        """
        if name is None or not self._settings.events:
            return
        sound = recognizer.sound(event.start, event.end)
        self._hand_over(self._heard(name, "event", event, recognizer), sound)

    def keep_window(self, recognizer: Recognizer) -> None:
        """Keep the newest window if that is wished, none was for a while, and the model is sure of it: no
        less than the owner says, and enough to report it.
        """
        end = recognizer.seconds
        if not self._settings.self_training or end < self._next_window:
            return
        leading, start = recognizer.leading, end - recognizer.task.clip_seconds
        if leading is None or leading[1] < self._settings.least_score or start < 0:
            return
        self._next_window = end + self._window_seconds
        window = Event(*leading, start, end, recognizer.version)
        heard = self._heard(secrets.token_hex(8), "window", window, recognizer)
        self._hand_over(heard, recognizer.sound(start, end))

    @property
    def _window_seconds(self) -> float:
        return 3600 / self._settings.windows_per_hour

    def _window_pause(self) -> float:
        """Seconds until a window may be kept: a restart does not make them more."""
        if not self._settings.self_training:
            return math.inf
        try:
            last = self._folder.last_window()
        except StorageError:
            return self._window_seconds
        passed = (datetime.now(UTC) - last).total_seconds() if last is not None else math.inf
        return min(max(0.0, self._window_seconds - passed), self._window_seconds)

    def _heard(
        self, name: str, kind: Literal["event", "window"], event: Event, recognizer: Recognizer
    ) -> Heard:
        return Heard(
            id=name,
            kind=kind,
            label=event.label,
            score=event.score,
            version=event.version,
            time=datetime.now(UTC),
            stretch=self._stretch_of(name, *map(recognizer.place, (event.start, event.end))),
        )

    def _stretch_of(self, name: str, start: int, end: int) -> str:
        """Names all sounds that overlap one another; none of them ends before the one that came before.

        `start` and `end` count samples that were heard: across a loss, too, a sound is made of those.
        """
        if start >= self._stretch_end:
            self._stretch = name
        self._stretch_end = max(self._stretch_end, end)
        return self._stretch

    def _hand_over(self, heard: Heard, sound: Rows) -> None:
        samples = np.rint(sound * np.float32(32768)).clip(-32768, 32767).astype(np.int16)
        try:
            self._wishes.put_nowait((heard, samples))
        except queue.Full:
            self._lost += 1

    def _write_all(self) -> None:
        self._trim(self._most)
        while True:
            with suppress(queue.Empty):
                wish = self._wishes.get(timeout=TRIM_SECONDS)
                if wish is None:
                    return
                self._write(*wish)
            if time.monotonic() - self._trimmed > TRIM_SECONDS:
                # Not at the start: a clock that has no battery is set some time after.
                self._trim(self._most, date_anew=True)

    def _trim(self, most_bytes: float, *, date_anew: bool = False) -> None:
        """Bring the folder within the bounds; of one that cannot be read it is not known how full it is."""
        self._trimmed = time.monotonic()
        try:
            if date_anew:
                a_day = time.monotonic() - self._began > DAY_SECONDS
                self._folder.date_anew(of_the_future=a_day)
            self._used = self._folder.trim(most_bytes, self._settings.max_days)
        except StorageError as error:
            self._warn("old sounds are not deleted", error.happened)
            self._used = math.inf

    def _write(self, heard: Heard, samples: Samples) -> None:
        size = samples.nbytes + _HEADERS
        if self._used + size > self._most >= size:
            # With room for more, or else the folder would be read for each sound from now on.
            self._trim(0.9 * self._most - size)
        if self._used + size > self._most:
            self._unwritten += 1
            self._warn("a sound was not kept", "max_mb leaves no room for it.")
            return
        try:
            if self._folder.add(heard, samples):
                self._used += size
                self._kept += 1
        except StorageError as error:
            self._unwritten += 1
            self._warn("a sound was not kept", error.happened)

    def _warn(self, what: str, reason: str) -> None:
        """Once: a disk that is gone must not fill the log, too."""
        if not self._warned:
            log.warning("%s: %s Further ones may not be.", what, reason)
        self._warned = True


_HEADERS = 512
"""Bytes of a sound's two files beside its samples, and no fewer."""
