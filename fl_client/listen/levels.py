"""Noise reports: how loud an interval was, and what was heard in it."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

import numpy as np

from common.audio.front_end import SAMPLE_RATE
from fl_client.listen.events import Message
from fl_client.listen.loudness import TICK, FastWeighting, Powers

log = logging.getLogger(__name__)

TICKS = SAMPLE_RATE // TICK
"""Powers in a second."""

STANDS_OUT_DB = 10.0

QUIETEST = 1e-15
"""Power (-150 dB) that stands for digital silence, which has no level."""


@dataclass(frozen=True)
class Level:
    """How loud an interval was.

    Attributes:
        start, end: in seconds of stream time.
        seconds: of sound heard in it; less than `end - start` where samples were lost.
        unit: "dB(A)" on a calibrated device; "dBFS(A)", relative to a full-scale sine at 1 kHz, on others.
        laeq: level of the mean power.
        lamax: highest level with time weighting F.
        l10, l50, l90: levels with time weighting F that were exceeded 10, 50 and 90 % of the time.
        active: share of the time in which the level stood 10 dB above l90.
        speech_like: share of the seconds that swell and fade like speech; see `speech_like`.
        labels: share of the time in which each label was held by the trigger.
    """

    kind: ClassVar[str] = "level"
    start: float
    end: float
    seconds: float
    unit: str
    laeq: float
    lamax: float
    l10: float
    l50: float
    l90: float
    active: float
    speech_like: float
    labels: dict[str, float]


class Levels:
    """Makes a `Level` of every `ticks` powers.

    Args:
        ticks: length of an interval in units of 10 ms.
        calibration_db: level of a full-scale sine at 1 kHz; None if the device is not calibrated.
    """

    def __init__(self, ticks: int, calibration_db: float | None) -> None:
        self._ticks = ticks
        self._calibration_db = calibration_db
        self._fast = FastWeighting()
        self._powers = self._weighted = np.empty(0)
        self._start = 0.0
        self._held: dict[str, float] = {}

    @property
    def missing(self) -> int:
        """Powers until the next report."""
        return self._ticks - len(self._powers)

    def feed(self, powers: Powers, at: float, held: Mapping[str, float]) -> list[Level]:
        """The reports that `powers` (t,) complete.

        Args:
            at: stream time at the end of `powers`, in seconds.
            held: seconds for which each label has been held so far.
        """
        self._powers = np.concatenate((self._powers, powers))
        self._weighted = np.concatenate((self._weighted, self._fast.feed(powers)))
        reports = []
        while len(self._powers) >= self._ticks:
            after = (len(self._powers) - self._ticks) / TICKS
            reports.append(self._report(self._ticks, at - after, held))
        return reports

    def rest(self, at: float, held: Mapping[str, float]) -> list[Level]:
        """The report of the interval that has not come to its end, if anything was heard in it."""
        return [self._report(len(self._powers), at, held)] if len(self._powers) else []

    def _report(self, ticks: int, end: float, held: Mapping[str, float]) -> Level:
        powers, weighted = self._powers[:ticks], self._weighted[:ticks]
        self._powers, self._weighted = self._powers[ticks:], self._weighted[ticks:]
        exceeded = self._decibels(np.percentile(weighted, (90, 50, 10)))
        seconds = ticks / TICKS
        during = {label: total - self._held.get(label, 0.0) for label, total in held.items()}
        report = Level(
            start=round(self._start, 3),
            end=round(end, 3),
            seconds=seconds,
            unit=unit_of(self._calibration_db),
            laeq=self._decibels(powers.mean())[0],
            lamax=self._decibels(weighted.max())[0],
            l10=exceeded[0],
            l50=exceeded[1],
            l90=exceeded[2],
            active=round(float(np.mean(weighted > _above(weighted))), 3),
            speech_like=round(speech_like(powers), 3),
            labels={label: round(min(1.0, time / seconds), 3) for label, time in during.items() if time > 0},
        )
        self._start, self._held = end, dict(held)
        return report

    def _decibels(self, powers: Powers | np.float64) -> list[float]:
        levels = decibels(powers, self._calibration_db)
        return [round(level, 2) for level in np.atleast_1d(levels).tolist()]


def decibels(powers: Powers | np.float64, calibration_db: float | None) -> Powers:
    """Levels of A-weighted powers; `calibration_db` as of `Levels`."""
    return 10.0 * np.log10(np.maximum(powers, QUIETEST)) + (calibration_db or 0.0)


def unit_of(calibration_db: float | None) -> str:
    """Of levels; see `Level`."""
    return "dBFS(A)" if calibration_db is None else "dB(A)"


def _above(weighted: Powers) -> float:
    return float(np.percentile(weighted, 10)) * 10 ** (STANDS_OUT_DB / 10)


def speech_like(powers: Powers) -> float:
    """Share of the whole seconds in `powers` (t,) that swell and fade as speech does; 0 if there is none.

    Syllables come about four times a second (modulation energy at 4 Hz; Scheirer and Slaney, ICASSP 1997).
    A second counts if more than half of what its envelope varies is at 2 to 8 Hz, and if it varies by half
    its mean to twice its mean. On recordings: 62 to 70 % of the seconds of words said one by one; none of
    rain, sea and helicopters, 1 % of chain saws, but 46 % of dogs barking. It tells speech from steady noise,
    not from everything.
    """
    seconds = len(powers) // TICKS
    envelope = np.sqrt(powers[: seconds * TICKS]).reshape(seconds, TICKS)
    mean = envelope.mean(axis=1, keepdims=True)
    depth = envelope.std(axis=1) / np.maximum(mean[:, 0], np.sqrt(QUIETEST))
    modulation = np.abs(np.fft.rfft((envelope - mean) * np.hanning(TICKS), axis=1)) ** 2
    share = modulation[:, 2:9].sum(axis=1) / np.maximum(modulation[:, 1:].sum(axis=1), QUIETEST)
    return float(np.mean((share > 0.5) & (depth > 0.5) & (depth < 2.0))) if seconds else 0.0


class LevelTable:
    """Appends reports to a CSV file that is its owner's alone, a row each; other messages are passed over."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writable = True

    def __call__(self, message: Message) -> None:
        if not isinstance(message, Level):
            return
        labels = " ".join(f"{label}={share}" for label, share in message.labels.items())
        row = asdict(message) | {"labels": _plain(labels)}
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with os.fdopen(descriptor, "a", encoding="utf-8", newline="") as file:
                writer = csv.writer(file)
                if file.tell() == 0:
                    writer.writerow(["time", *(field.name for field in fields(Level))])
                writer.writerow([datetime.now(UTC).isoformat(timespec="seconds"), *row.values()])
            self._writable = True
        except OSError as error:
            if self._writable:
                log.warning("noise reports are not written to %s: %s", self._path, error)
            self._writable = False


def _plain(text: str) -> str:
    """`text` as a cell that no spreadsheet takes for a formula; labels are another's choice."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
