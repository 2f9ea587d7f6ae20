"""When virtual devices are online, how long they take, and which never answer.

What a device does is known before it does it, so the work of one that would be late or never answer is not
done at all: it keeps nothing and spends no privacy. A deployed device that is late has done both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from simulations.draws import draws
from simulations.scenario import BehaviourChoice
from simulations.trace import Trace, read_trace


@dataclass(frozen=True)
class Outcome:
    """What becomes of one order to one device.

    Args:
        seconds: from the order to its answer, on the simulation's clock.
        drops: whether the answer never comes: it gets lost, or the device goes offline before.
    """

    seconds: float
    drops: bool


class Behaviour(Protocol):
    """Follows from the seed: the same device does the same in the same round, whoever asks and when."""

    def online(self, round_number: int, clock: float) -> list[int]:
        """Devices that can be asked, ascending, when round `round_number` begins at `clock` seconds."""
        ...

    def outcome(
        self, round_number: int, device: int, clips: float, bytes_down: int, bytes_up: int, clock: float
    ) -> Outcome:
        """What becomes of an order that a device is given at `clock` seconds.

        Args:
            clips: windows it trains on, epochs counted; for other work, as many as take that long.
        """
        ...


class Availability(Protocol):
    """Who can be asked, and for how long."""

    def online(self, round_number: int, clock: float) -> NDArray[np.bool_]:
        """Which devices can, (devices,), in a round that begins at `clock` seconds."""
        ...

    def until(self, device: int, clock: float) -> float:
        """When a device that is asked at `clock` seconds goes offline."""
        ...


def make_behaviour(choice: BehaviourChoice, devices: int, seed: int) -> Behaviour:
    """How devices 0 .. devices - 1 behave.

    Raises:
        SimulationError: FA-9103, the trace cannot be used.
    """
    if choice.trace is None:
        return DrawnBehaviour(choice, devices, seed, _ByChance(choice.availability, devices, seed))
    return DrawnBehaviour(choice, devices, seed, _ByTrace(read_trace(choice.trace), devices))


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
        online: list[int] = np.flatnonzero(self._availability.online(round_number, clock)).tolist()
        return online

    def outcome(
        self, round_number: int, device: int, clips: float, bytes_down: int, bytes_up: int, clock: float
    ) -> Outcome:
        work = clips * self._choice.seconds_per_clip * self._work[device]
        traffic = (bytes_down + bytes_up) / self._choice.bytes_per_second * self._traffic[device]
        lost = draws(self._seed, "dropout", round_number, device).random() < self._choice.dropout
        leaves = clock + work + traffic > self._availability.until(device, clock)
        return Outcome(seconds=float(work + traffic), drops=bool(lost or leaves))


@dataclass(frozen=True)
class _ByChance:
    """Each device in each round anew; it then stays until it has answered."""

    share: float
    devices: int
    seed: int

    def online(self, round_number: int, clock: float) -> NDArray[np.bool_]:
        return draws(self.seed, "availability", round_number).random(self.devices) < self.share

    def until(self, device: int, clock: float) -> float:
        return math.inf


@dataclass(frozen=True)
class _ByTrace:
    """As real devices were."""

    trace: Trace
    devices: int

    def online(self, round_number: int, clock: float) -> NDArray[np.bool_]:
        return self.trace.online(clock, self.devices)

    def until(self, device: int, clock: float) -> float:
        return self.trace.until(device, clock)
