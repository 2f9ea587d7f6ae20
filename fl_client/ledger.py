"""What a device has spent: privacy since ever, and rounds today. In one small file beside the keys.

Privacy is booked, and on the disk, before the first noisy step. A training that does not come to its end has
spent it all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path

from pydantic import Field

from common.errors import DeviceError
from common.files import locked, read_if_there, write_atomic
from common.protocol.answer import PrivacySpent
from common.security.canonical import canonical, read_canonical
from common.settings import Settings
from fl_client.marks import MARKS, raise_marks, read_marks

LARGEST_LEDGER = 200
"""Pairs of noise and sampling rate. Composing takes about 50 ms for each, so more would hold up a round."""


class Spent(Settings):
    """Trainings with the same noise and sampling rate. There is no limit to how many steps add up."""

    noise_multiplier: float = Field(gt=0, le=1000, allow_inf_nan=False)
    sampling_rate: float = Field(gt=0, le=1)
    steps: int = Field(ge=0)


class Ledger(Settings):
    """All of it.

    Args:
        day: ISO 8601, that `rounds` were taken on.
        last: run and round of the last of them; its evaluation is a part of it.
        spent: trainings with privacy.
        exact: evaluations and trainings without privacy, whose cost has no bound.
    """

    day: str = ""
    rounds: int = Field(0, ge=0)
    last: str = ""
    spent: tuple[Spent, ...] = Field((), max_length=LARGEST_LEDGER)
    exact: int = Field(0, ge=0)

    def rounds_on(self, today: date) -> int:
        """Rounds that were taken on `today`."""
        return self.rounds if self.day == today.isoformat() else 0

    def with_round(self, today: date, name: str) -> Ledger:
        """After the round called `name` was taken on."""
        if (self.day, self.last) == (today.isoformat(), name):
            return self
        rounds = self.rounds_on(today) + 1
        return self.model_copy(update={"day": today.isoformat(), "rounds": rounds, "last": name})

    def with_cost(self, cost: PrivacySpent) -> Ledger:
        """After a training that costs `cost`.

        Raises:
            DeviceError: FA-4045, the ledger is full.
        """
        steps = self.steps
        key = cost.sampling_rate, cost.noise_multiplier
        steps[key] = steps.get(key, 0) + cost.steps
        if len(steps) > LARGEST_LEDGER:
            raise DeviceError(
                "FA-4045",
                f"The device has trained with {LARGEST_LEDGER} different settings of privacy.",
                "Use a noise multiplier and a batch size of earlier plans.",
            )
        spent = tuple(
            Spent(noise_multiplier=noise, sampling_rate=rate, steps=count)
            for (rate, noise), count in steps.items()
        )
        return self.model_copy(update={"spent": spent})

    def with_exact(self) -> Ledger:
        """After an answer that no noise protects."""
        return self.model_copy(update={"exact": self.exact + 1})

    @property
    def steps(self) -> dict[tuple[float, float], int]:
        """Steps at each (sampling rate, noise multiplier)."""
        return {(one.sampling_rate, one.noise_multiplier): one.steps for one in self.spent}


def read_ledger(path: Path) -> Ledger:
    """The ledger in `path`; empty if none was ever written, which the marks beside it know.

    Raises:
        DeviceError: FA-4043 it is damaged or lost, FA-4008 the marks are; a device does not guess what it has
            spent.
        StorageError: FA-8001, it cannot be read.
    """
    data = read_if_there(path)
    if data is None:
        if read_marks(path.with_name(MARKS)).ledger:
            raise _unknown(path, "lost")
        return Ledger()
    ledger = read_canonical(Ledger, data)
    if isinstance(ledger, str):
        raise _unknown(path, "damaged")
    return ledger


def change_ledger(path: Path, change: Callable[[Ledger], Ledger]) -> Ledger:
    """Replace the ledger by `change` of it, on disk before this returns. Many processes may do so.

    Raises:
        DeviceError: FA-4043, FA-4008, or what `change` raises; nothing is changed then.
        StorageError: FA-8001.
    """
    with locked(path.with_suffix(".lock")):
        before = read_ledger(path)
        after = change(before)
        if after != before:
            write_atomic(path, canonical(after), mode=0o600)
            # In this order, a power cut between the two leaves a ledger that is only not yet missed.
            raise_marks(path.with_name(MARKS), lambda marks: marks.model_copy(update={"ledger": True}))
    return after


def _unknown(path: Path, fate: str) -> DeviceError:
    return DeviceError(
        "FA-4043",
        f"{path} is {fate}, so it is not known how much privacy this device has spent.",
        "Restore the file from a backup; without one, enrol the device anew in another folder.",
    )
