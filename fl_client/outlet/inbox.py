"""Feedback as it comes from a broker: taken in at once, worked off in a thread of its own."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Self

from pydantic import ValidationError

from common.errors import DeviceError
from fl_client.feedback import LAST
from fl_client.home import DeviceHome
from fl_client.outlet.said import LARGEST, Said, answer, refusal
from fl_client.reports import Report

WAITING = 16
"""Messages that may wait; more are left out."""

LAST_SECONDS = 5.0
"""That feedback on "last" may wait, for a round that reads the clips: then another event may be the last."""


class Inbox:
    """Gives the feedback that it is offered, from `__enter__` to `__exit__`.

    Args:
        home: of the device that listens.
        tell: is given each answer, in the inbox's thread.
    """

    def __init__(self, home: DeviceHome, tell: Callable[[dict[str, object]], None]) -> None:
        self._home, self._tell = home, tell
        self._waiting: queue.Queue[tuple[float, bytes]] = queue.Queue(WAITING)
        self._stop = threading.Event()
        self._answered = self._left_out = 0

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._work, name="inbox", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End after the word that is being worked on; what waits is left."""
        self._stop.set()
        self._thread.join()

    def offer(self, payload: bytes) -> None:
        """Take in what somebody has sent, whatever it is, and never wait."""
        try:
            self._waiting.put_nowait((time.monotonic(), payload))
        except queue.Full:
            self._left_out += 1

    def report(self) -> Report:
        """What was counted.

        Raises:
            RuntimeError: nothing is worked off any more.
        """
        if not self._thread.is_alive():
            raise RuntimeError("the feedback from the broker has ended by a fault")
        return {"mqtt_feedback": self._answered, "mqtt_feedback_left_out": self._left_out}

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                came, payload = self._waiting.get(timeout=0.2)
            except queue.Empty:
                continue
            self._tell(self._answer(payload, came))
            self._answered += 1

    def _answer(self, payload: bytes, came: float) -> dict[str, object]:
        try:
            if len(payload) > LARGEST:
                raise ValueError(f"it has more than {LARGEST} bytes")
            said = Said.model_validate_json(payload)
            if said.event == LAST and time.monotonic() - came > LAST_SECONDS:
                raise ValueError('it says "last" and had to wait; send the id of the event')
        except ValueError as error:
            why = "it is not such an object" if isinstance(error, ValidationError) else str(error)
            return refusal(
                DeviceError(
                    "FA-4239",
                    f"What was sent is no feedback: {why}.",
                    "Send a JSON object with event and verdict, and speaker if you like.",
                )
            )
        asked: dict[str, object] = {"event": said.event, "verdict": said.verdict}
        return asked | answer(self._home, said)
