"""Real releases, made as the coordinator makes them, with seeded weights."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache

import torch

from common.files import sha256
from common.models.acoustic import AcousticModel
from common.models.export import export_graph
from common.models.registry import build_model
from common.models.weights import get_weights
from common.protocol.release import GRAPH, MANIFEST, WEIGHTS, Graph, Manifest, Release, open_release
from common.protocol.tensors import Weights, encode_weights, schema_of
from common.task import Task, Trigger

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


def make_release(version: int, seed: int | None = None, task: Task | None = None) -> Made:
    task = task or make_task()
    model = build_model(task, torch.Generator().manual_seed(version if seed is None else seed)).eval()
    with torch.no_grad():
        last = model.get_submodule("classify")
        assert isinstance(last, torch.nn.Linear)
        last.weight.mul_(SHARPNESS)
    weights = get_weights(model)
    data = encode_weights(weights)
    graph_bytes, graph = _exported(task.model_dump_json())
    manifest = Manifest(
        version=version,
        created=datetime(2026, 1, 1, tzinfo=UTC),
        task=task,
        weights=sha256(data),
        schema=schema_of(weights),
        graph=graph,
    )
    files = {MANIFEST: manifest.model_dump_json(by_alias=True).encode(), WEIGHTS: data, GRAPH: graph_bytes}
    return Made(model, files, open_release(files))


def resealed(made: Made, *, graph: bytes | None = None, weights: Weights | None = None) -> Release:
    """`made` with another graph or other weights under a manifest whose digests are right."""
    files = dict(made.files)
    if graph is not None:
        files[GRAPH] = graph
    if weights is not None:
        files[WEIGHTS] = encode_weights(weights)
    manifest = made.release.manifest
    described = manifest.graph.model_copy(update={"digest": sha256(files[GRAPH])})
    manifest = manifest.model_copy(update={"graph": described, "weights": sha256(files[WEIGHTS])})
    files[MANIFEST] = manifest.model_dump_json(by_alias=True).encode()
    return open_release(files)
