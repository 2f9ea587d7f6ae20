"""When virtual devices are online, how long they take, and which never answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Outcome:
    """What becomes of one order to one device.

    Args:
        seconds: from the order to its answer, on the simulation's clock.
        drops: whether the answer never comes.
    """

    seconds: float
    drops: bool


class Behaviour(Protocol):
    """Follows from the seed: the same device does the same in the same round, whoever asks and when."""

    def online(self, round_number: int, clock: float) -> list[int]:
        """Devices that can be asked, ascending, when round `round_number` begins at `clock` seconds."""
        ...

    def outcome(self, round_number: int, device: int, clips: int, bytes_down: int, bytes_up: int) -> Outcome:
        """What becomes of an order to train on `clips` windows in all, epochs counted."""
        ...
