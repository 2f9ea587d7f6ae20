"""Real releases, made as the coordinator makes them, with seeded weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.audio.golden import golden_clip
from common.files import sha256
from common.models.acoustic import AcousticModel
from common.models.export import export_graph
from common.models.golden import golden_scores
from common.models.registry import build_model
from common.models.weights import get_weights
from common.protocol.algorithms import AlgorithmName
from common.protocol.release import Golden, Graph, Release, describe_tensors, digest_of, open_release
from common.protocol.tensors import Weights, encode_weights
from common.task import Task, Trigger
from tests.made_manifests import COORDINATOR, KEY, make_manifest, sealed

LABELS = ("yes", "no", "stop", "background")
SHARPNESS = 12.0
"""Gain of the last layer: an untrained model hardly prefers any label; this one does, so events happen."""


def make_task(**changes: object) -> Task:
    settings: dict[str, object] = {
        "labels": LABELS,
        "width": 16,
        "trigger": Trigger(threshold=0.6, release=0.5, refractory_seconds=0.2),
    }
    return Task.model_validate(settings | changes)


@dataclass(frozen=True)
class Made:
    """A release, its files, and the torch model it came from."""

    model: AcousticModel
    files: dict[str, bytes]
    release: Release


@cache
def _exported(task_json: str) -> tuple[bytes, Graph]:
    task = Task.model_validate_json(task_json)
    return export_graph(build_model(task, torch.Generator().manual_seed(0)), task)


def make_release(
    version: int,
    seed: int | None = None,
    task: Task | None = None,
    *,
    coordinator: str = COORDINATOR,
    key: Ed25519PrivateKey = KEY,
    algorithm: AlgorithmName = "fedavg",
) -> Made:
    task = task or make_task()
    model = build_model(task, torch.Generator().manual_seed(version if seed is None else seed)).eval()
    with torch.no_grad():
        last = model.get_submodule("classify")
        assert isinstance(last, torch.nn.Linear)
        last.weight.mul_(SHARPNESS)
    weights = get_weights(model)
    graph_bytes, graph = _exported(task.model_dump_json())
    manifest = make_manifest(
        version,
        weights,
        graph_bytes,
        task,
        graph=graph,
        golden=_golden(task, weights),
        coordinator=coordinator,
        algorithm=algorithm,
    )
    files = sealed(manifest, weights, graph_bytes, key)
    return Made(model, files, open_release(files))


def resealed(made: Made, *, graph: bytes | None = None, weights: Weights | None = None) -> Release:
    """`made` with another graph or other weights under a manifest whose digests are right."""
    return open_release(resealed_files(made, graph=graph, weights=weights))


def resealed_files(
    made: Made, *, graph: bytes | None = None, weights: Weights | None = None, key: Ed25519PrivateKey = KEY
) -> dict[str, bytes]:
    """As `resealed`, as files, signed anew."""
    graph = made.release.graph if graph is None else graph
    weights = made.release.weights if weights is None else weights
    manifest = made.release.manifest.model_copy(
        update={
            "graph": made.release.manifest.graph.model_copy(update={"digest": sha256(graph)}),
            "weights": sha256(encode_weights(weights)),
            "tensors": describe_tensors(weights),
        }
    )
    return sealed(manifest, weights, graph, key)


def _golden(task: Task, weights: Weights) -> Golden:
    return Golden(digest=digest_of(golden_clip(task.clip_samples)), scores=golden_scores(task, weights))
