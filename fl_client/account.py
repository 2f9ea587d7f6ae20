"""What the lines of a device's ledger say, and what they add up to."""

from __future__ import annotations

from collections import Counter
from datetime import date
from typing import Literal, Self

from pydantic import AwareDatetime, Field, model_validator

from common.errors import DeviceError
from common.protocol.unit import Unit
from common.settings import Settings

LARGEST_LEDGER = 200
"""Pairs of noise and sampling rate. Composing takes about 50 ms for each, so more would hold up a round."""

State = Literal["round", "exact", "reserved", "spent"]


class Cost(Settings):
    """Steps of DP-SGD.

    Args:
        delta: of the plan, where it is known; the limits are meant at the owner's.
    """

    unit: Unit
    noise_multiplier: float = Field(gt=0, le=1000, allow_inf_nan=False)
    sampling_rate: float = Field(gt=0, le=1)
    steps: int = Field(ge=0)
    delta: float | None = Field(None, gt=0, le=1)

    @property
    def steps_by_kind(self) -> dict[tuple[float, float], int]:
        """As an account adds them up: at this (sampling rate, noise multiplier)."""
        return {(self.sampling_rate, self.noise_multiplier): self.steps}


class Entry(Settings):
    """One line.

    Args:
        state: a round was taken on; an exact answer begins; a private training may begin; it has ended.
        time: by the device's clock; a round counts for the day that it is there.
        run, round, plan, clips: what for: a coordinator's run and round, SHA-256 of the plan's body and of
            the names of the clips. Empty where an older ledger was taken over.
        cost: of what is reserved; no other line has one.
        count: of rounds or answers; above one only where an older ledger was taken over.
    """

    state: State
    time: AwareDatetime
    run: str = ""
    round: int = Field(0, ge=0)
    plan: str = ""
    clips: str = ""
    cost: Cost | None = None
    count: int = Field(1, ge=0)

    @model_validator(mode="after")
    def _costs_what_is_reserved(self) -> Self:
        if (self.state == "reserved") != (self.cost is not None):
            raise ValueError("what is reserved has a cost, and nothing else has")
        return self

    @property
    def name(self) -> str:
        """Of the round."""
        return f"{self.run}/{self.round}"


class Account:
    """What the lines of a ledger add up to.

    Args:
        steps: for each unit of privacy, at each (sampling rate, noise multiplier); also of trainings that did
            not come to their end.
        exact: evaluations and trainings without privacy, whose cost has no bound.
        last: run and round that were taken on last; an evaluation is a part of its round.
    """

    def __init__(self) -> None:
        self.steps: dict[Unit, Counter[tuple[float, float]]] = {}
        self.exact = 0
        self.last = ""
        self._day: date | None = None
        self._rounds = 0

    def add(self, entry: Entry) -> None:
        """Go on by one line."""
        if entry.cost is not None:
            self.steps.setdefault(entry.cost.unit, Counter()).update(entry.cost.steps_by_kind)
        match entry.state:
            case "round":
                day = entry.time.date()
                self._rounds = self.rounds_on(day) + entry.count
                self._day, self.last = day, entry.name
            case "exact":
                self.exact += entry.count
            case "reserved" | "spent":
                pass  # nothing but its cost counts

    def rounds_on(self, today: date) -> int:
        """Rounds that were taken on `today`."""
        return self._rounds if self._day == today else 0

    def counts(self, today: date, name: str) -> bool:
        """Whether the round called `name` was the last that was taken on, and today."""
        return (self._day, self.last) == (today, name)

    def steps_with(self, cost: Cost) -> Counter[tuple[float, float]]:
        """What `steps` of its unit would be after a training that costs `cost`.

        Raises:
            DeviceError: FA-4045, there would be too many different ones.
        """
        steps = self.steps.get(cost.unit, Counter()) + Counter(cost.steps_by_kind)
        if len(steps) > LARGEST_LEDGER:
            raise DeviceError(
                "FA-4045",
                f"The device has trained with {LARGEST_LEDGER} different settings of privacy.",
                "Use a noise multiplier and a sampling rate of earlier plans.",
            )
        return steps
