"""When virtual devices are online, how long they take, and which never answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from simulations.draws import draws
from simulations.scenario import BehaviourChoice
from simulations.trace import read_trace


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


Availability = Callable[[int, float], NDArray[np.bool_]]
"""Which devices can be asked, (devices,), in a round of this number that begins at this time."""


def make_behaviour(choice: BehaviourChoice, devices: int, seed: int) -> Behaviour:
    """How devices 0 .. devices - 1 behave.

    Raises:
        SimulationError: FA-9103, the trace cannot be used.
    """
    if choice.trace is None:
        return DrawnBehaviour(choice, devices, seed, _by_chance(choice.availability, devices, seed))
    trace = read_trace(choice.trace)
    return DrawnBehaviour(choice, devices, seed, lambda round_number, clock: trace.online(clock, devices))


class DrawnBehaviour:
    """Speed and connection are a device's own, for good; whether an answer gets lost is drawn each round."""

    def __init__(self, choice: BehaviourChoice, devices: int, seed: int, availability: Availability) -> None:
        self._choice, self._seed, self._availability = choice, seed, availability
        slow = np.ones(devices)
        stragglers = draws(seed, "stragglers").permutation(devices)[: round(choice.stragglers * devices)]
        slow[stragglers] = choice.straggler_factor
        self._work, self._traffic = (
            slow * np.exp(choice.speed_spread * draws(seed, what).standard_normal(devices))
            for what in ("speeds", "connections")
        )

    def online(self, round_number: int, clock: float) -> list[int]:
        online: list[int] = np.flatnonzero(self._availability(round_number, clock)).tolist()
        return online

    def outcome(self, round_number: int, device: int, clips: int, bytes_down: int, bytes_up: int) -> Outcome:
        work = clips * self._choice.seconds_per_clip * self._work[device]
        traffic = (bytes_down + bytes_up) / self._choice.bytes_per_second * self._traffic[device]
        lost = draws(self._seed, "dropout", round_number, device).random() < self._choice.dropout
        return Outcome(seconds=float(work + traffic), drops=bool(lost))


def _by_chance(availability: float, devices: int, seed: int) -> Availability:
    def online(round_number: int, clock: float) -> NDArray[np.bool_]:
        return draws(seed, "availability", round_number).random(devices) < availability

    return online
