"""What a device sends back: a delta and a report, or a report alone, or a refusal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field, ValidationError

from common.errors import ProtocolError
from common.protocol.tensors import Schema, Weights, decode_weights, encode_weights, read_note
from common.settings import Settings, first_fault

CLIP_LIMIT = 1_000_000
"""No device has more clips than this; a report that says so is refused."""


class PrivacySpent(Settings):
    """What one round cost, and of what."""

    epsilon: float = Field(ge=0, le=1e9, allow_inf_nan=False)
    delta: float = Field(ge=0, lt=1)
    unit: Literal["one clip"] = "one clip"
    accountant: str = Field(max_length=64)
    noise_multiplier: float = Field(ge=0.01, le=1000, allow_inf_nan=False)
    sampling_rate: float = Field(gt=0, le=1)
    steps: int = Field(ge=0, le=10_000_000)


class Report(Settings):
    """Facts about one device's work on one plan. Every number is bounded before it is used."""

    run: str = Field(max_length=64)
    round: int = Field(ge=0)
    kind: Literal["train", "evaluate"]
    base: str = Field(max_length=64)
    device: str = Field(min_length=1, max_length=64, pattern=r"^[\w.-]+$")
    clips: int = Field(ge=0, le=CLIP_LIMIT, description="windows trained on or evaluated")
    skipped: int = Field(0, ge=0, le=CLIP_LIMIT, description="files that could not be used")
    correct: int = Field(0, ge=0, le=CLIP_LIMIT, description="of an evaluation")
    loss: float = Field(0.0, ge=0, le=1e6, allow_inf_nan=False, description="mean cross-entropy")
    seconds: float = Field(0.0, ge=0, le=1e6, allow_inf_nan=False, description="time spent working")
    privacy: PrivacySpent | None = None


class Refusal(Settings):
    """A device's reason for not doing what a plan asks."""

    code: str = Field(pattern=r"^FA-\d{4}$")
    reason: str = Field(max_length=500)


@dataclass(frozen=True)
class Answer:
    """A checked answer. `delta` (new weights minus old) is empty for an evaluation."""

    report: Report
    delta: Weights


def encode_answer(report: Report, delta: Weights | None = None) -> bytes:
    """The one opaque byte string a device sends."""
    return encode_weights(delta or {}, report.model_dump_json())


def encode_refusal(refusal: Refusal) -> bytes:
    """A refusal as bytes."""
    return encode_weights({}, refusal.model_dump_json())


def decode_answer(data: bytes | memoryview, schema: Schema) -> Answer | Refusal:
    """Check `data` and read it; an evaluation must hold no tensors, a training exactly `schema`.

    Raises:
        ProtocolError: FA-3001..FA-3003 from the tensors, FA-3004 the report is malformed or out of range.
    """
    note = read_note(data)
    try:
        return Refusal.model_validate_json(note)
    except ValidationError:
        pass
    try:
        report = Report.model_validate_json(note)
    except ValidationError as error:
        raise ProtocolError(
            "FA-3004", f"The report is malformed: {first_fault(error)}.", "Update the device."
        ) from error
    return Answer(report, decode_weights(data, schema if report.kind == "train" else {}))
