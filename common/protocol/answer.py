"""What a device sends back: a delta and a report, or a report alone, or a refusal.

    kind (1) | length of the note (4, big-endian) | note | tensors

The note is a `Report` or a `Refusal` in canonical JSON; tensors follow a training only. It travels in an
envelope. docs/protocol.md, section 5.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from pydantic import Field

from common.errors import ProtocolError
from common.protocol.tensors import Row, Schema, Weights, decode_row, encode_weights, split_row
from common.protocol.unit import Unit
from common.security.canonical import Printable, canonical, read_canonical
from common.settings import Settings

CLIP_LIMIT = 1_000_000
"""No device has more clips than this; a report that says so is refused."""


class PrivacySpent(Settings):
    """What a training has cost, of what, and on whose word: a promise that must be read as a whole."""

    epsilon: float = Field(ge=0, le=1e18, allow_inf_nan=False)
    delta: float = Field(ge=0, le=1, description="with the error of the sampler; 1: nothing is promised")
    unit: Unit = "clip"
    adjacency: Literal["add or remove one"] = "add or remove one"
    sampler: Literal["poisson"] = "poisson"
    trusted: Literal["device"] = Field("device", description="noise is added there, before anybody else")
    accountant: Printable = Field(max_length=64)
    noise_multiplier: float = Field(ge=0.01, le=1000, allow_inf_nan=False)
    sampling_rate: float = Field(gt=0, le=1)
    steps: int = Field(ge=0, le=2**53)


class Report(Settings):
    """Facts about one device's work on one plan. Every number is bounded before it is used."""

    run: str = Field(pattern=r"^[0-9a-f]{16}$")
    round: int = Field(ge=0, lt=2**32)
    kind: Literal["train", "evaluate"]
    base: str = Field(pattern=r"^[0-9a-f]{64}$")
    device: str = Field(pattern=r"^[0-9a-f]{32}$", description="id of the device that worked")
    clips: int = Field(ge=0, le=CLIP_LIMIT, description="windows trained on or evaluated")
    skipped: int = Field(0, ge=0, le=CLIP_LIMIT, description="files that could not be used")
    correct: int = Field(0, ge=0, le=CLIP_LIMIT, description="of an evaluation")
    loss: float = Field(0.0, ge=0, le=1e6, allow_inf_nan=False, description="mean cross-entropy")
    seconds: float = Field(0.0, ge=0, le=1e6, allow_inf_nan=False, description="time spent working")
    privacy: PrivacySpent | None = None


class Refusal(Settings):
    """A device's reason for not doing what a plan asks."""

    code: str = Field(pattern=r"^FA-[0-9]{4}$")
    reason: Printable = Field(max_length=500)


@dataclass(frozen=True)
class Answer:
    """A checked answer.

    Args:
        row: the delta of a training, new weights minus old, flat; empty for an evaluation.
        norm: L2 norm of the delta.
        schema: of its tensors.
    """

    report: Report
    row: Row = field(default_factory=lambda: np.empty(0, np.float32), repr=False, compare=False)
    norm: float = 0.0
    schema: Schema = field(default_factory=dict, repr=False)

    @cached_property
    def delta(self) -> Weights:
        """The same by the tensors' names."""
        return split_row(self.row, self.schema)


def encode_answer(report: Report, delta: Weights | None = None) -> bytes:
    """The one opaque byte string a device sends."""
    note = canonical(report)
    return (
        _KINDS[report.kind] + len(note).to_bytes(4, "big") + note + (encode_weights(delta) if delta else b"")
    )


def encode_refusal(refusal: Refusal) -> bytes:
    """A refusal as bytes."""
    note = canonical(refusal)
    return _REFUSAL + len(note).to_bytes(4, "big") + note


def decode_answer(data: bytes | memoryview, schema: Schema) -> Answer | Refusal:
    """Check `data` and read it; a training must hold exactly the tensors of `schema`, anything else none.

    Raises:
        ProtocolError: FA-3001..FA-3003 from the tensors, FA-3004 the note is malformed or out of range.
    """
    view = memoryview(data)
    kind, length = bytes(view[:1]), int.from_bytes(view[1:5], "big")
    if length > LARGEST_NOTE:
        raise _malformed("its note is too long")
    if len(view) < 5 + length:
        raise _malformed("it is cut short")
    note, tensors = bytes(view[5 : 5 + length]), view[5 + length :]
    if kind == _REFUSAL:
        refusal = read_canonical(Refusal, note)
        if isinstance(refusal, str) or len(tensors):
            raise _malformed(refusal if isinstance(refusal, str) else "something follows it")
        return refusal
    report = read_canonical(Report, note)
    if isinstance(report, str):
        raise _malformed(report)
    if kind != _KINDS[report.kind] or (report.kind == "evaluate" and len(tensors)):
        raise _malformed("it is of another kind than it says")
    if report.kind == "evaluate":
        return Answer(report)
    row, norm = decode_row(tensors, schema)
    return Answer(report, row, norm, schema)


LARGEST_NOTE = 1 << 16
_KINDS, _REFUSAL = {"train": b"\x01", "evaluate": b"\x02"}, b"\x03"


def _malformed(why: str) -> ProtocolError:
    return ProtocolError("FA-3004", f"The report is malformed: {why}.", "Update the device.")
