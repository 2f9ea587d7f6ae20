"""What privacy the devices of a simulation have spent, as a coordinator adds it up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TypeAlias

from common.privacy.accounting import compose
from common.protocol.answer import PrivacySpent, Report
from common.protocol.plan import Privacy

Spent: TypeAlias = tuple[PrivacySpent, ...]


class Spending:
    """By device, what it has spent at each sampling rate.

    Args:
        privacy: that is asked for.
        devices: spent in earlier rounds.
    """

    def __init__(self, privacy: Privacy | None, devices: Mapping[str, Spent]) -> None:
        self._delta, self._devices = privacy.delta if privacy else 0.0, dict(devices)
        self._largest = max(map(self._total, self._devices.values()), key=_epsilon, default=None)

    def book(self, report: Report) -> None:
        """Add what a device says that its training has cost."""
        cost = report.privacy
        if cost is None:
            return
        before = self._devices.get(report.device, ())
        self._devices[report.device] = _added(before, cost)
        total = self._total(self._devices[report.device])
        # More is never less private, so only who has just spent can have spent most.
        self._largest = total if self._largest is None else max(self._largest, total, key=_epsilon)

    @property
    def devices(self) -> Mapping[str, Spent]:
        """To go on from."""
        return self._devices

    @property
    def largest(self) -> PrivacySpent | None:
        """Of the device that has spent most; None if none has."""
        return self._largest

    def _total(self, spent: Spent) -> PrivacySpent:
        return _composed(spent, self._delta)


def _added(spent: Spent, cost: PrivacySpent) -> Spent:
    """`spent` with `cost`, in one entry with what was spent at the same rate and noise."""
    rest: Sequence[PrivacySpent] = [one for one in spent if _how(one) != _how(cost)]
    steps = cost.steps + sum(one.steps for one in spent if _how(one) == _how(cost))
    return (*rest, cost.model_copy(update={"steps": steps}))


@lru_cache(maxsize=4096)
def _composed(spent: Spent, delta: float) -> PrivacySpent:
    """Kept: devices with as many clips that took part as often have spent the same."""
    return compose(spent, delta)


def _how(cost: PrivacySpent) -> tuple[float, float]:
    return cost.sampling_rate, cost.noise_multiplier


def _epsilon(total: PrivacySpent) -> float:
    return total.epsilon
