"""Watches how loud the stream is, and what is heard in it, beside the release at work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from common.audio.front_end import SAMPLE_RATE
from fl_client.listen.alarms import Alarm, LabelAlarm, LevelAlarm
from fl_client.listen.events import Event, Message
from fl_client.listen.levels import TICKS, Levels
from fl_client.listen.loudness import STEP, TICK, Loudness
from fl_client.listen.ring import Rows
from fl_client.listen.settings import ListenSettings


class Monitor:
    """Noise reports and alarms as the owner wishes them; where none is wished, it costs nothing."""

    def __init__(self, settings: ListenSettings) -> None:
        calibration, alarms = settings.calibration_db, settings.alarms
        self._labels = [LabelAlarm(alarm) for alarm in alarms if alarm.label is not None]
        self._limits = [LevelAlarm(alarm, calibration) for alarm in alarms if alarm.level is not None]
        ticks = round(settings.level_seconds * TICKS)
        self._levels = Levels(ticks, calibration) if settings.reports_levels else None
        self._loudness = Loudness()
        self._heard = self._lost = self._ticks = 0

    def cut(self, samples: Rows) -> Iterator[Rows]:
        """`samples` in pieces that end where a report does, so that it tells of what was heard until then."""
        while self._levels is not None:
            steps = -(-(self._ticks + self._levels.missing) * TICK // STEP)
            due = (steps + 1) * STEP - self._heard
            if due >= len(samples):
                break
            yield samples[:due]
            samples = samples[due:]
        yield samples

    def skip(self, samples: int) -> None:
        """Note that `samples` were lost before the next `feed`.

        What was heard before and has no power yet, up to 120 ms, is lost with them: joined to what comes, it
        would make a click that nobody heard.
        """
        if samples:
            waiting = self._heard - self._ticks * TICK
            self._heard -= waiting
            self._lost += samples + waiting
            self._loudness = Loudness()

    def heard(self, event: Event) -> list[Alarm]:
        """The alarms that `event` gives."""
        alarms = (alarm.heard(event) for alarm in self._labels)
        return [alarm for alarm in alarms if alarm is not None]

    def feed(self, samples: Rows, held: Mapping[str, float]) -> list[Message]:
        """The reports and alarms that `samples` (n,) complete; `held`: seconds each label was held so far."""
        self._heard += len(samples)
        if self._levels is None and not self._limits:
            return []
        powers = self._loudness.feed(samples)
        self._ticks += len(powers)
        messages: list[Message] = []
        for limit in self._limits:
            messages += limit.feed(powers, self._now)
        if self._levels is not None:
            messages += self._levels.feed(powers, self._now, held)
        return messages

    def end(self, held: Mapping[str, float]) -> list[Message]:
        """The report of the interval in which the sound ended; its last 60 to 120 ms are not in it."""
        return [] if self._levels is None else [*self._levels.rest(self._now, held)]

    @property
    def _now(self) -> float:
        """Stream time at the end of the newest power, in seconds."""
        return (self._ticks * TICK + self._lost) / SAMPLE_RATE
