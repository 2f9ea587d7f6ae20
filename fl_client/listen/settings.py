"""[listen] of device.toml as a value: what the owner has a say in when the device listens."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from common.settings import Settings
from common.task import Label

Threshold = Annotated[float, Field(gt=0, lt=1)]


class AlarmSettings(Settings):
    """What the owner wishes to be told of: a level that is exceeded, or a label that is heard."""

    name: str = Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]+$")
    level: float | None = Field(None, ge=-200, le=200, description="LAeq from which to tell")
    seconds: float = Field(10.0, ge=0.1, le=3600, description="that the LAeq is over")
    hysteresis_db: float = Field(3.0, ge=0, le=60, description="how far it must fall until it is over")
    label: Label | None = Field(None, description="whose events to tell of")
    repeat_seconds: float = Field(600.0, ge=0, le=86_400, description="least time to telling it again")

    @model_validator(mode="after")
    def _is_about_one_thing(self) -> Self:
        if (self.level is None) == (self.label is None):
            raise ValueError("an alarm is about a level or about a label")
        return self


class CalibrationSettings(Settings):
    """What `fedaudio client calibrate` notes of the thresholds that it found."""

    version: int = Field(ge=0, description="release they were measured with")


class ListenSettings(Settings):
    """What the owner wishes of a device that listens, whichever release it hears with."""

    thresholds: dict[Label, Threshold] = Field(
        default_factory=dict,
        description="score from which a label counts as heard, instead of the release's; "
        "see `fedaudio client calibrate`",
    )
    calibration: CalibrationSettings | None = Field(
        None,
        description="what `fedaudio client calibrate` notes of these thresholds; take it out when you set "
        "thresholds of your own",
    )
    smoothing_seconds: float | None = Field(
        None, ge=0, le=2, description="scores are means over so long; unset: as the release says"
    )
    gate_db: float | None = Field(
        None,
        gt=0,
        le=60,
        description="run the network only while sound is so far above the room's noise; unset: always",
    )
    false_accepts_per_hour: float = Field(
        1.0, gt=0, le=1000, description="what `fedaudio client calibrate` aims at, all labels together"
    )
    levels: bool = Field(False, description="report how loud it is")
    level_seconds: float = Field(60.0, ge=1, le=3600, description="that a noise report is about")
    levels_csv: str | None = Field(
        None, min_length=1, description="file to append the reports to as CSV too; implies levels"
    )
    calibration_db: float | None = Field(
        None,
        ge=0,
        le=200,
        description="level in dB(A) of a full-scale sine at 1 kHz; unset: levels are relative to it",
    )
    alarms: tuple[AlarmSettings, ...] = Field((), max_length=32)

    def measured_with_another(self, version: int) -> int | None:
        """The version the thresholds were measured with, if that is known and is not `version`."""
        if not self.thresholds or self.calibration is None or self.calibration.version == version:
            return None
        return self.calibration.version

    @property
    def reports_levels(self) -> bool:
        """Whether noise reports are wished."""
        return self.levels or self.levels_csv is not None
