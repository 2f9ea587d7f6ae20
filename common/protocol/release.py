"""A release: one model version as a folder for listeners without torch. docs/protocol.md, section 6.

manifest.json        `Manifest` in canonical JSON
manifest.sig         its signature (`common.protocol.signed_release`)
weights.safetensors  parameters by name
graph.onnx           the step graph: (frames, state..., weights...) -> (logits, next state...)

Here is what a listener needs: that the files are those which the manifest is about. Who signed the manifest
is checked once, before a release is kept.
"""

from __future__ import annotations

import math
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import AwareDatetime, Field, model_validator

from common.errors import ProtocolError
from common.files import make_folder, rename, sha256, write_atomic
from common.protocol.algorithms import AlgorithmName
from common.protocol.answer import PrivacySpent
from common.protocol.tensors import Schema, Shape, Weights, decode_weights
from common.security.canonical import read_canonical
from common.settings import Settings
from common.task import Task

MANIFEST, SIGNATURE, WEIGHTS, GRAPH = "manifest.json", "manifest.sig", "weights.safetensors", "graph.onnx"
FILES = (MANIFEST, SIGNATURE, WEIGHTS, GRAPH)

Version = Annotated[int, Field(ge=0, le=2**53)]
"""Number of a release; exact in any reader of JSON."""

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256 in hexadecimal."""

LARGEST_MANIFEST = 1 << 20
LARGEST_GRAPH = 64 << 20

LARGEST_WEIGHTS = (256 << 20) + LARGEST_MANIFEST
VALUES_LIMIT = 64 << 20
"""Values of all weights together: 256 MB, to which a header comes that is smaller than the manifest."""

STATE_LIMIT = 16_000_000
"""Values of all state tensors together."""

PAST_LIMIT = 16_000_000
"""Samples that may influence one output frame: a listener keeps them all, and these are 1000 seconds."""


class Graph(Settings):
    """How to run graph.onnx.

    A streaming graph takes any number T of new frames (1, T, features) and the state, and gives frame logits
    (1, T, labels) and the next state; a window has the log-mean-exp of its frame logits over time as logits.
    A window graph takes a whole window (1, window_frames, features) and gives its logits (1, labels). It is
    run every `hop` frames, and its last logits stand in between.
    """

    streaming: bool
    digest: Digest
    state: Schema = Field(default_factory=dict, description="shape of each state tensor, in graph order")
    receptive_field: int = Field(ge=1, le=100_000, description="frames that influence one output frame")
    hop: int = Field(1, ge=1, le=100_000, description="frames from one decision to the next")

    @model_validator(mode="after")
    def _hears_every_frame(self) -> Self:
        if self.streaming and self.hop != 1:
            raise ValueError("a streaming graph decides at every frame: its hop is 1")
        if self.hop > self.receptive_field:
            raise ValueError("frames between two windows would never be heard: hop is above receptive_field")
        return self

    @model_validator(mode="after")
    def _fits_a_device(self) -> Self:
        if sum(map(math.prod, self.state.values())) > STATE_LIMIT:
            raise ValueError(f"the state has more than {STATE_LIMIT} values")
        return self


class Metrics(Settings):
    """What is known about a version when it is released."""

    validation_accuracy: float | None = Field(None, ge=0, le=1, description="on the coordinator's own clips")
    validation_loss: float | None = Field(None, ge=0, allow_inf_nan=False)
    device_accuracy: float | None = Field(None, ge=0, le=1, description="on the devices' held-out clips")
    device_loss: float | None = Field(None, ge=0, allow_inf_nan=False)


class Tensor(Settings):
    """One parameter. `digest` is of its values: float32, little-endian, row by row."""

    shape: Shape
    digest: Digest


class Golden(Settings):
    """What a device must hear in the golden clip (`common.audio.golden`) of the task's length."""

    clip: Literal["chirp-1"] = "chirp-1"
    digest: Digest = Field(description="of the clip's samples: float32, little-endian")
    scores: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(description="probability of each label")


class Anchor(Settings):
    """Where the coordinator's log stood when a version was made: whoever keeps it finds a log rewritten."""

    entries: int = Field(ge=0, le=2**53)
    head: Digest


class Manifest(Settings):
    """All there is to know about a version.

    Args:
        coordinator: fingerprint of the root it is signed under.
        parent: the version it was trained from, or the one it takes the place of in a rollback.
        restores: the version whose weights a rollback brings back.
        expires: devices do not install it later; one that has it goes on listening.
        minimum_client: oldest version of this software that can run it.
        algorithm: what devices train it by; by some, each has its own version of some parameters.
        weights: digest of weights.safetensors.
        privacy: what the device that has spent most has spent.
    """

    coordinator: Digest
    version: Version
    parent: Version | None = None
    restores: Version | None = None
    created: AwareDatetime
    expires: AwareDatetime
    minimum_client: str = Field("0.1.0", pattern=r"^\d{1,6}\.\d{1,6}\.\d{1,6}$")
    task: Task
    algorithm: AlgorithmName = "fedavg"
    weights: Digest
    tensors: dict[Annotated[str, Field(min_length=1, max_length=256)], Tensor] = Field(
        min_length=1, max_length=4096
    )
    graph: Graph
    golden: Golden
    metrics: Metrics = Metrics()
    participants: int = Field(0, ge=0, le=2**53)
    privacy: PrivacySpent | None = None
    evidence: Anchor

    @property
    def schema(self) -> Schema:  # type: ignore[override]
        """Shape of every parameter by name."""
        return {name: tensor.shape for name, tensor in self.tensors.items()}

    @model_validator(mode="after")
    def _fits_a_device(self) -> Self:
        if sum(map(math.prod, self.schema.values())) > VALUES_LIMIT:
            raise ValueError(f"the weights have more than {VALUES_LIMIT} values")
        if self.graph.receptive_field * self.task.front_end.hop > PAST_LIMIT:
            raise ValueError(f"more than {PAST_LIMIT} samples influence one output frame")
        return self

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if any(earlier is not None and earlier >= self.version for earlier in (self.parent, self.restores)):
            raise ValueError("a version comes after those it was made from")
        if not self.graph.streaming and self.graph.receptive_field != self.task.clip_frames:
            raise ValueError("a window graph takes the frames of the task's window")
        if len(self.golden.scores) != len(self.task.labels):
            raise ValueError("the golden clip has one score for each label")
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


def describe_tensors(weights: Weights) -> dict[str, Tensor]:
    """`weights` as a manifest names them."""
    return {
        name: Tensor(shape=tuple(value.shape), digest=digest_of(value)) for name, value in weights.items()
    }


def digest_of(values: NDArray[np.float32]) -> str:
    """SHA-256 of `values` as float32, little-endian, row by row."""
    return sha256(np.ascontiguousarray(values, np.dtype("<f4")).reshape(-1).data)


def parse_manifest(data: bytes) -> Manifest:
    """Read and check manifest.json; who signed it is another question.

    Raises:
        ProtocolError: FA-3011.
    """
    manifest = "it is too long" if len(data) > LARGEST_MANIFEST else read_canonical(Manifest, data)
    if isinstance(manifest, str):
        raise ProtocolError("FA-3011", f"The release's manifest is malformed: {manifest}.", _FETCH_AGAIN)
    return manifest


def open_release(files: Mapping[str, bytes]) -> Release:
    """Check that the files are those which the manifest is about. Who receives them checks the signature too.

    Raises:
        ProtocolError: FA-3011 manifest, FA-3012 a file is missing or does not match its digest, FA-3044 a
            tensor does not, FA-3001..FA-3003 tensors.
    """
    for name in (MANIFEST, WEIGHTS, GRAPH):
        if name not in files:
            raise ProtocolError("FA-3012", f"The release has no {name}.", _FETCH_AGAIN)
    manifest = parse_manifest(files[MANIFEST])
    for name, digest in ((WEIGHTS, manifest.weights), (GRAPH, manifest.graph.digest)):
        if sha256(files[name]) != digest:
            raise ProtocolError(
                "FA-3012",
                f"The {name} is not that of version {manifest.version}: its digest is another.",
                _FETCH_AGAIN,
            )
    weights = decode_weights(files[WEIGHTS], manifest.schema)
    for name, value in weights.items():
        if digest_of(value) != manifest.tensors[name].digest:
            raise ProtocolError(
                "FA-3044", f"The tensor '{name}' is not that of version {manifest.version}.", _FETCH_AGAIN
            )
    return Release(manifest, weights, files[GRAPH])


def load_release(folder: Path) -> Release:
    """Read the release in `folder`, and check it as `open_release` does.

    Its signature is not checked: a device has done so before it kept the release, and for others there is
    `fedaudio model verify`.

    Raises:
        ProtocolError: as `open_release`.
    """
    try:
        return open_release({name: (folder / name).read_bytes() for name in (MANIFEST, WEIGHTS, GRAPH)})
    except OSError as error:
        raise ProtocolError("FA-3012", f"{folder} is not a whole release: {error}.", _FETCH_AGAIN) from error


def write_release(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write a release so that `folder` is there whole or not at all. An existing folder is left as it is.

    Args:
        files: by name; the signature may be missing, and comes later then.

    Raises:
        StorageError: FA-8001.
    """
    if folder.exists():
        return
    temporary = make_folder(folder.parent / f".new-{folder.name}-{secrets.token_hex(4)}")
    try:
        for name in FILES:
            if name != SIGNATURE or name in files:
                write_atomic(temporary / name, files[name])
        rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


_FETCH_AGAIN = "Fetch the release again; if it stays, ask the coordinator's operator."
