"""Small signed releases whose graph is never run. They need no torch."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.audio.golden import golden_clip
from common.files import sha256, write_atomic
from common.protocol.release import (
    GRAPH,
    MANIFEST,
    SIGNATURE,
    WEIGHTS,
    Anchor,
    Golden,
    Graph,
    Manifest,
    Release,
    describe_tensors,
    digest_of,
)
from common.protocol.signed_release import sign_manifest
from common.protocol.tensors import Weights, encode_weights
from common.security.canonical import canonical
from common.security.statement import raw_public
from common.task import Task
from fl_client.store import ModelStore

KEY = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
"""A release key that every process of a test knows."""

SIGNERS = (raw_public(KEY),)
COORDINATOR = "c0" * 32
CREATED = datetime(2026, 1, 1, tzinfo=UTC)
NOW = CREATED + timedelta(days=30)
EXPIRES = datetime(2126, 1, 1, tzinfo=UTC)
TASK = Task(labels=("yes", "no"), clip_seconds=0.25)


def make_manifest(
    version: int, weights: Weights, graph: bytes, task: Task = TASK, /, **changes: object
) -> Manifest:
    """A manifest that is right about its files."""
    facts: dict[str, object] = {
        "coordinator": COORDINATOR,
        "version": version,
        "created": CREATED,
        "expires": EXPIRES,
        "task": task,
        "weights": sha256(encode_weights(weights)),
        "tensors": describe_tensors(weights),
        "graph": Graph(streaming=True, digest=sha256(graph), receptive_field=1),
        "golden": Golden(digest=digest_of(golden_clip(task.clip_samples)), scores=(0.5,) * len(task.labels)),
        "evidence": Anchor(entries=0, head="0" * 64),
    }
    return Manifest.model_validate(facts | changes)


def sealed(
    manifest: Manifest, weights: Weights, graph: bytes, key: Ed25519PrivateKey = KEY
) -> dict[str, bytes]:
    """The files of a release."""
    return signed({MANIFEST: canonical(manifest), WEIGHTS: encode_weights(weights), GRAPH: graph}, key)


def signed(files: Mapping[str, bytes], key: Ed25519PrivateKey = KEY) -> dict[str, bytes]:
    """`files` with the signature that their manifest has by `key`."""
    return dict(files) | {SIGNATURE: sign_manifest(files[MANIFEST], key)}


def small_weights(version: int) -> Weights:
    """Twelve values that only this version has, in two tensors."""
    return {
        "b": np.full(2, -version, np.float32),
        "w": np.arange(10, dtype=np.float32).reshape(5, 2) + version,
    }


def small_release(version: int, graph: bytes = b"graph" * 1000, **changes: object) -> dict[str, bytes]:
    """The files of a release that belongs together."""
    weights = small_weights(version)
    return sealed(make_manifest(version, weights, graph, **changes), weights, graph)


def put(store: ModelStore, files: Mapping[str, bytes]) -> Release:
    """Install a release in `store` as the release feed does."""
    with store.receiving() as folder:
        for name, data in files.items():
            write_atomic(folder / name, data)
        return store.adopt(folder)
