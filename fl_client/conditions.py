"""What the machine is doing just now, where the platform tells."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

import psutil

_LOOPBACK, _MOBILE = re.compile(r"lo\d*$"), re.compile(r"(wwan|wwp|ppp|rmnet)")


@dataclass(frozen=True)
class Conditions:
    """What an owner's policy may be about. None: the platform does not tell.

    Args:
        time: local time.
        charging: whether it is plugged in; None also where there is no battery.
        battery: per cent.
        load: mean number of busy processes over the last minute, per core.
        metered: whether every way to the network is a mobile one.
    """

    time: datetime
    charging: bool | None
    battery: float | None
    load: float | None
    metered: bool | None

    @classmethod
    def now(cls) -> Conditions:
        """Those of this machine, at this moment."""
        power = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
        return cls(
            datetime.now().astimezone(),
            None if power is None else power.power_plugged,
            None if power is None else float(power.percent),
            psutil.getloadavg()[0] * share_of_one(),
            metered([name for name, state in psutil.net_if_stats().items() if state.isup]),
        )


def share_of_one() -> float:
    """What one process that is always busy adds to `Conditions.load`."""
    return 1 / (psutil.cpu_count() or 1)


def metered(interfaces: list[str]) -> bool | None:
    """Whether a machine with these interfaces up reaches the network over mobile ones alone.

    A telephone that a computer is tethered to looks like any other network.
    """
    outward = [name for name in interfaces if not _LOOPBACK.match(name)]
    return all(_MOBILE.match(name) for name in outward) if outward else None
