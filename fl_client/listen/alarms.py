"""Alarms: it is too loud, or a label was heard that somebody must know of. Pure: no clock, no output."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from common.audio.front_end import SAMPLE_RATE
from fl_client.listen.events import Event
from fl_client.listen.levels import decibels, unit_of
from fl_client.listen.loudness import STEP, TICK, Powers
from fl_client.listen.settings import AlarmSettings


@dataclass(frozen=True)
class Alarm:
    """Something the owner wished to be told of.

    Attributes:
        name: as in device.toml.
        on: False when it is over; only a level is ever over.
        at: in seconds of stream time.
        label: what was heard; None if it is about a level.
        level: LAeq of the last `seconds`; None if it is about a label.
        limit: what was exceeded.
        unit: of both, as in `Level`.
    """

    kind: ClassVar[str] = "alarm"
    name: str
    on: bool
    at: float
    label: str | None = None
    level: float | None = None
    limit: float | None = None
    unit: str | None = None


class LabelAlarm:
    """Tells that a label was heard, not more than once in `repeat_seconds`."""

    def __init__(self, settings: AlarmSettings) -> None:
        self._settings = settings
        self._quiet_until = -math.inf

    def heard(self, event: Event) -> Alarm | None:
        """The alarm that `event` gives, if any."""
        settings = self._settings
        if event.label != settings.label or event.end < self._quiet_until:
            return None
        self._quiet_until = event.end + settings.repeat_seconds
        return Alarm(settings.name, True, event.end, label=event.label)


class LevelAlarm:
    """Tells that the mean level of the last `seconds` reached the limit, and again every `repeat_seconds` as
    long as that lasts; when it is more than `hysteresis_db` below the limit, tells that it is over.

    Args:
        settings: an alarm about a level.
        calibration_db: level of a full-scale sine at 1 kHz; None if the device is not calibrated.
    """

    def __init__(self, settings: AlarmSettings, calibration_db: float | None) -> None:
        if settings.level is None:
            raise ValueError("this alarm is not about a level")
        self._settings = settings
        self._limit = settings.level
        self._calibration_db = calibration_db
        self._window = np.zeros(max(1, round(settings.seconds * SAMPLE_RATE / STEP)))
        self._steps = 0
        self._on = False
        self._again_at = math.inf

    def feed(self, powers: Powers, at: float) -> list[Alarm]:
        """The alarms that `powers` (t,) of whole steps give; `at`: stream time at their end, in seconds."""
        steps = powers.reshape(-1, STEP // TICK).mean(axis=1).tolist()
        ends = [at - left * STEP / SAMPLE_RATE for left in reversed(range(len(steps)))]
        alarms = (self._step(power, end) for power, end in zip(steps, ends, strict=True))
        return [alarm for alarm in alarms if alarm is not None]

    def _step(self, power: float, at: float) -> Alarm | None:
        self._window[self._steps % len(self._window)] = power
        self._steps += 1
        if self._steps < len(self._window):
            return None
        level = float(decibels(self._window.mean(), self._calibration_db))
        if self._on and level < self._limit - self._settings.hysteresis_db:
            self._on = False
        elif (not self._on and level >= self._limit) or (self._on and at >= self._again_at):
            self._on = True
            self._again_at = at + self._settings.repeat_seconds
        else:
            return None
        unit = unit_of(self._calibration_db)
        return Alarm(self._settings.name, self._on, round(at, 3), None, round(level, 2), self._limit, unit)
