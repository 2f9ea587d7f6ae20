"""A task: what a model listens for and how. Coordinator, device and listener hold the same value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from common.audio.front_end import SAMPLE_RATE, FrontEnd, LogMel
from common.settings import Settings

SCORES_LIMIT = 10_000_000
"""Frames of one window times labels: a listener keeps a score for each."""

NEVER = frozenset({"background", "background_noise", "silence", "unknown"})
"""A label of this name, whatever its case and with or without underscores around it, is never reported."""

NOTHING = ("unknown", "background", "background_noise")
"""Those for a sound that is none of the others, the best first. It may be a word, and is no silence."""

Label = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f/\\]+$")]


def is_background(label: str) -> bool:
    """Whether `label` stands for "nothing to report"."""
    return label.strip("_").lower() in NEVER


def nothing_of(labels: Sequence[str]) -> str | None:
    """The label for a sound that is none of the others, if there is one."""
    found = {label.strip("_").lower(): label for label in labels}
    return next((found[name] for name in NOTHING if name in found), None)


class Trigger(Settings):
    """When a stream of scores becomes an event.

    Smoothing is off because a score is smooth already: it is about the mean over a whole window, not about
    one frame. What smoothing gains and what it costs in time is in benchmarks/RESULTS.md.
    """

    threshold: float = Field(0.6, gt=0, lt=1, description="score from which a label counts as heard")
    release: float = Field(0.4, gt=0, lt=1, description="score below which it may be heard again")
    refractory_seconds: float = Field(0.7, ge=0, le=60, description="silence kept after an event")
    smoothing_seconds: float = Field(0.0, ge=0, le=2, description="scores are means over so long")

    @model_validator(mode="after")
    def _releases_below(self) -> Self:
        if self.release > self.threshold:
            raise ValueError("release must not be above threshold")
        return self


class Task(Settings):
    """Label set, front end, model and trigger."""

    labels: tuple[Label, ...] = Field(min_length=2, max_length=1000)
    front_end: FrontEnd = LogMel()
    architecture: str = "tc-stream"
    width: int | None = Field(None, ge=4, le=1024, description="channels; the architecture's own if unset")
    clip_seconds: float = Field(1.0, gt=0.05, le=30, description="length of the window one decision is about")
    trigger: Trigger = Trigger()

    @field_validator("labels")
    @classmethod
    def _distinct(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(labels)) != len(labels):
            raise ValueError("labels must be distinct")
        return labels

    @model_validator(mode="after")
    def _holds_a_frame(self) -> Self:
        if self.clip_frames < 1:
            raise ValueError("clip_seconds is shorter than one window of the front end")
        return self

    @model_validator(mode="after")
    def _fits_a_device(self) -> Self:
        if self.clip_frames * len(self.labels) > SCORES_LIMIT:
            raise ValueError(
                f"a window has more than {SCORES_LIMIT} scores; use fewer labels or a longer hop"
            )
        return self

    @property
    def nothing(self) -> int | None:
        """Position of the label for a sound that is none of the others, if there is one."""
        label = nothing_of(self.labels)
        return None if label is None else self.labels.index(label)

    @property
    def clip_samples(self) -> int:
        return round(self.clip_seconds * SAMPLE_RATE)

    @property
    def clip_frames(self) -> int:
        """Frames in one window of `clip_seconds`."""
        return self.front_end.frames(self.clip_samples)
