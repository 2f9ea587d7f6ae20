"""`fedaudio model info`: what a person is told of a model, and a machine."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from common.errors import FedAudioError
from common.models.export import export_graph
from common.models.registry import ARCHITECTURES, build_model
from common.models.weights import get_weights
from common.protocol.release import MANIFEST, Graph
from common.protocol.tensors import Weights
from common.task import Task
from fedaudio.cli import app
from tests.made_manifests import make_manifest, sealed

TASK = Task(labels=("a", "b", "c"), architecture="ds-cnn", width=8, clip_seconds=0.5)


def info(*options: str) -> str:
    result = CliRunner().invoke(app, ["model", "info", *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def refusal(*options: str) -> FedAudioError:
    with pytest.raises(FedAudioError) as caught:
        CliRunner().invoke(app, ["model", "info", *options], catch_exceptions=False)
    return caught.value


@cache
def made() -> tuple[Weights, bytes, Graph]:
    model = build_model(TASK, torch.Generator().manual_seed(0))
    return get_weights(model), *export_graph(model, TASK)


def write(folder: Path, weights: Weights, graph: Graph) -> Path:
    """A release in `folder`, as a coordinator makes it."""
    manifest = make_manifest(1, weights, made()[1], TASK, graph=graph)
    for name, data in sealed(manifest, weights, made()[1]).items():
        (folder / name).write_bytes(data)
    return folder


def test_a_release_costs_what_its_untrained_architecture_costs(tmp_path: Path) -> None:
    weights, _, graph = made()
    release = write(tmp_path, weights, graph)
    untrained = ("--architecture", "ds-cnn", "--labels", "3", "--width", "8", "--clip-seconds", "0.5")
    expected = json.loads(info(*untrained, "--json"))
    assert expected["labels"] is None
    assert json.loads(info(str(release), "--json")) == expected | {"labels": ["a", "b", "c"]}
    assert json.loads(info(str(release / MANIFEST), "--json"))["labels"] == ["a", "b", "c"]
    first, _, costs = info(str(release)).partition("\n")
    assert first.split(maxsplit=1) == ["labels", "a, b, c"]
    assert costs == info(*untrained)
    assert expected["architecture"] == "ds-cnn"
    assert expected["hop_ms"] == 100


def test_a_person_reads_the_same_numbers_as_a_machine() -> None:
    said, facts = (
        info("--architecture", "tc-stream"),
        json.loads(info("--architecture", "tc-stream", "--json")),
    )
    lines = {line[:19].strip(): line[19:] for line in said.splitlines()}
    assert lines["parameters"].startswith(f"{facts['parameters']:,}")
    assert lines["MACs per decision"] == f"{facts['macs_per_decision']:,}"
    assert lines["latency floor"] == "35 ms"
    assert "each frame" in lines["architecture"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_has_costs(architecture: str) -> None:
    facts = json.loads(info("--architecture", architecture, "--json"))
    assert all(facts[name] > 0 for name in ("parameters", "macs_per_second", "state_bytes"))


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("somewhere", "--architecture", "tc-stream"),
        ("somewhere", "--labels", "12"),
        ("somewhere", "--width", "8"),
        ("somewhere", "--clip-seconds", "1"),
        ("--labels", "12"),
    ],
)
def test_one_model_is_to_be_named(options: tuple[str, ...]) -> None:
    assert refusal(*options).code == "FA-7050"


def test_what_cannot_be_is_refused() -> None:
    assert refusal("--architecture", "tc-strem").code == "FA-7001"
    assert refusal("--architecture", "tc-stream", "--width", "1").code == "FA-6003"
    assert refusal("/nowhere").code == "FA-3046"


@pytest.mark.parametrize("change", [{"hop": 5}, {"state": {"s": (1, 2)}}])
def test_a_graph_that_is_not_that_of_the_architecture_is_refused(
    change: dict[str, object], tmp_path: Path
) -> None:
    weights, _, graph = made()
    assert refusal(str(write(tmp_path, weights, graph.model_copy(update=change)))).code == "FA-7051"


def test_parameters_that_are_not_those_of_the_architecture_are_refused(tmp_path: Path) -> None:
    weights, _, graph = made()
    headless = {name: value for name, value in weights.items() if name != "classify.bias"}
    assert refusal(str(write(tmp_path, headless, graph))).code == "FA-7051"
