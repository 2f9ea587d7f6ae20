"""Keeps the sound of what is heard, where the owner has asked for it, without holding up the listening."""

from __future__ import annotations

import logging
import queue
import secrets
import threading
import time
from datetime import UTC, datetime
from typing import Self

import numpy as np

from common.files import StorageError
from common.task import is_background
from fl_client.heard import Heard, HeardFolder, Samples
from fl_client.keep_settings import KeepSettings
from fl_client.listen.events import Event
from fl_client.listen.recognizer import Recognizer
from fl_client.listen.ring import Rows

log = logging.getLogger(__name__)

WAITING = 8
"""Sounds that may wait for a slow disk; further ones are not kept."""

TRIM_SECONDS = 600.0

_Wish = tuple[Heard, Samples]


class Recorder:
    """Writes sounds in a thread of its own, from `__enter__` to `__exit__`, within the bounds the owner set.

    One thread calls `keep` and `keep_window`, which never wait. A disk that is full or gone costs the sounds
    that should have gone there, and nothing else.
    """

    def __init__(self, folder: HeardFolder, settings: KeepSettings) -> None:
        self._folder, self._settings = folder, settings
        self._wishes: queue.Queue[_Wish | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._write_all, name="recorder", daemon=True)
        self._kept = self._unwritten = self._lost = 0
        self._last_event: tuple[str, float] | None = None
        self._next_window = 0.0

    @property
    def counters(self) -> dict[str, int]:
        """Sounds written, and sounds that were not, since the disk was slow, full or gone."""
        return {"sounds_kept": self._kept, "sounds_lost": self._lost + self._unwritten}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Write what waits, and end."""
        self._wishes.put(None)
        self._thread.join()

    def keep(self, name: str | None, event: Event, recognizer: Recognizer) -> None:
        """Keep the sound of `event`, just reported by `recognizer`, if that is wished.

        Args:
            name: the event's id in the log; None if it was not written there, where nobody can point at it.
        """
        if name is None or not self._settings.events:
            return
        self._last_event = name, event.end
        sound = recognizer.sound(event.start, event.end)
        self._hand_over(_heard(name, "event", event.label, event.score, event.version), sound)

    def keep_window(self, recognizer: Recognizer) -> None:
        """Keep the newest window if that is wished, none was for a while, and the model is sure of it."""
        end = recognizer.seconds
        if not self._settings.self_training or end < self._next_window:
            return
        label, score = max(recognizer.scores.items(), key=lambda item: item[1])
        if score < self._settings.least_score or is_background(label):
            return
        start = end - recognizer.task.clip_seconds
        if start < 0:
            return
        self._next_window = end + 3600 / self._settings.windows_per_hour
        last = self._last_event
        event = last[0] if last and last[1] > start else None
        heard = _heard(secrets.token_hex(8), "window", label, score, recognizer.version)
        self._hand_over(heard.model_copy(update={"event": event}), recognizer.sound(start, end))

    def _hand_over(self, heard: Heard, sound: Rows) -> None:
        samples = np.rint(sound * np.float32(32768)).clip(-32768, 32767).astype(np.int16)
        try:
            self._wishes.put_nowait((heard, samples))
        except queue.Full:
            self._lost += 1

    def _write_all(self) -> None:
        most, days = self._settings.max_mb * 1e6, self._settings.max_days
        size, trimmed = self._folder.trim(most, days), time.monotonic()
        while True:
            try:
                wish = self._wishes.get(timeout=TRIM_SECONDS)
                if wish is None:
                    return
                size += self._write(*wish)
            except queue.Empty:
                pass
            if size > most or time.monotonic() - trimmed > TRIM_SECONDS:
                # With room for more, or else the folder would be read for each sound from now on.
                size, trimmed = self._folder.trim(0.9 * most if size > most else most, days), time.monotonic()

    def _write(self, heard: Heard, samples: Samples) -> int:
        try:
            self._folder.add(heard, samples)
        except StorageError as error:
            if not self._unwritten:
                log.warning("a sound was not kept, and further ones may not be: %s", error.happened)
            self._unwritten += 1
            return 0
        self._kept += 1
        return samples.nbytes + _HEADERS


_HEADERS = 512
"""Bytes of a sound's two files beside its samples, and no fewer."""


def _heard(name: str, kind: str, label: str, score: float, version: int) -> Heard:
    return Heard.model_validate(
        {
            "id": name,
            "kind": kind,
            "label": label,
            "score": score,
            "version": version,
            "time": datetime.now(UTC),
        }
    )
