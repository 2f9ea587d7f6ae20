"""A release: one model version as a folder that a listener can run without torch.

manifest.json        `Manifest`
weights.safetensors  parameters by name
graph.onnx           the step graph: (frames, state..., weights...) -> (logits, next state...)
"""

from __future__ import annotations

import math
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, ValidationError, model_validator

from common.errors import ProtocolError
from common.files import make_folder, rename, sha256, write_atomic
from common.protocol.answer import PrivacySpent
from common.protocol.tensors import Schema, Weights, decode_weights
from common.settings import Settings, first_fault
from common.task import Task

MANIFEST, WEIGHTS, GRAPH = "manifest.json", "weights.safetensors", "graph.onnx"
FILES = (MANIFEST, WEIGHTS, GRAPH)

Version = Annotated[int, Field(ge=0, le=2**53)]
"""Number of a release; exact in any reader of JSON."""

STATE_LIMIT = 16_000_000
"""Values of all state tensors together."""

PAST_LIMIT = 16_000_000
"""Samples that may influence one output frame: a listener keeps them all, and these are 1000 seconds."""


class Graph(Settings):
    """How to run graph.onnx.

    A streaming graph takes any number T of new frames (1, T, features) and the state, and gives frame logits
    (1, T, labels) and the next state; a window has the log-mean-exp of its frame logits over time as logits.
    A window graph takes a whole window (1, window_frames, features) and gives its logits (1, labels).
    """

    streaming: bool
    digest: str = Field(min_length=64, max_length=64)
    state: Schema = Field(default_factory=dict, description="shape of each state tensor, in graph order")
    receptive_field: int = Field(ge=1, le=100_000, description="frames that influence one output frame")

    @model_validator(mode="after")
    def _fits_a_device(self) -> Self:
        if sum(map(math.prod, self.state.values())) > STATE_LIMIT:
            raise ValueError(f"the state has more than {STATE_LIMIT} values")
        return self


class Metrics(Settings):
    """What is known about a version when it is released."""

    validation_accuracy: float | None = Field(None, ge=0, le=1, description="on the coordinator's own clips")
    validation_loss: float | None = Field(None, ge=0)
    device_accuracy: float | None = Field(None, ge=0, le=1, description="on the devices' held-out clips")
    device_loss: float | None = Field(None, ge=0)


class Manifest(Settings):
    """All there is to know about a version."""

    version: Version
    parent: Version | None = None
    created: datetime
    task: Task
    weights: str = Field(min_length=64, max_length=64, description="SHA-256 of weights.safetensors")
    schema_: Schema = Field(alias="schema")
    graph: Graph
    metrics: Metrics = Metrics()
    participants: int = Field(0, ge=0)
    privacy: PrivacySpent | None = None

    @model_validator(mode="after")
    def _fits_a_device(self) -> Self:
        if self.graph.receptive_field * self.task.front_end.hop > PAST_LIMIT:
            raise ValueError(f"more than {PAST_LIMIT} samples influence one output frame")
        return self


@dataclass(frozen=True)
class Release:
    """A verified release in memory."""

    manifest: Manifest
    weights: Weights
    graph: bytes

    @property
    def version(self) -> int:
        return self.manifest.version


def parse_manifest(data: bytes) -> Manifest:
    """Read and check manifest.json.

    Raises:
        ProtocolError: FA-3011.
    """
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        raise ProtocolError(
            "FA-3011", f"The release's manifest is malformed: {first_fault(error)}.", _FETCH_AGAIN
        ) from error


def open_release(files: Mapping[str, bytes]) -> Release:
    """Verify the three files against each other.

    Raises:
        ProtocolError: FA-3011 manifest, FA-3012 a file is missing or does not match its digest,
            FA-3001..FA-3003 tensors.
    """
    missing = [name for name in FILES if name not in files]
    if missing:
        raise ProtocolError("FA-3012", f"The release has no {missing[0]}.", _FETCH_AGAIN)
    manifest = parse_manifest(files[MANIFEST])
    for name, digest in ((WEIGHTS, manifest.weights), (GRAPH, manifest.graph.digest)):
        if sha256(files[name]) != digest:
            raise ProtocolError("FA-3012", f"The release's {name} does not match its digest.", _FETCH_AGAIN)
    return Release(manifest, decode_weights(files[WEIGHTS], manifest.schema_), files[GRAPH])


def load_release(folder: Path) -> Release:
    """Read and verify the release in `folder`.

    Raises:
        ProtocolError: as `open_release`.
    """
    try:
        return open_release({name: (folder / name).read_bytes() for name in FILES})
    except OSError as error:
        raise ProtocolError("FA-3012", f"{folder} is not a whole release: {error}.", _FETCH_AGAIN) from error


def write_release(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write a release so that `folder` is there whole or not at all. An existing folder is left as it is.

    Raises:
        StorageError: FA-8001.
    """
    if folder.exists():
        return
    temporary = make_folder(folder.parent / f".new-{folder.name}-{secrets.token_hex(4)}")
    try:
        for name in FILES:
            write_atomic(temporary / name, files[name])
        rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


_FETCH_AGAIN = "Fetch the release again; if it stays, ask the coordinator's operator."
