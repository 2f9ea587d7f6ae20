"""The first version begins with a body from elsewhere and a head of zeros, or is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from typer.testing import CliRunner

from common.errors import CoordinatorError, ProtocolError
from common.models.acoustic import without_head
from common.models.registry import build_model
from common.models.weights import get_weights
from common.protocol.tensors import Weights, encode_weights
from common.settings import load_settings
from common.task import Task
from fl_server.cli import app
from fl_server.home import CoordinatorHome
from fl_server.initialise import initialise
from fl_server.releases import release_folder
from fl_server.settings import ServerSettings
from fl_server.warm_start import find_body, read_body, warm_model
from tests.fl_server.made_versions import SETTINGS, make_home, open_versions

TASK = SETTINGS.task
OTHER_LABELS = TASK.model_copy(update={"labels": ("one", "two", "three")})


def weights_of(task: Task, seed: int = 7) -> Weights:
    return get_weights(build_model(task, torch.Generator().manual_seed(seed)))


def stored(folder: Path, weights: Mapping[str, np.ndarray]) -> Path:
    path = folder / "weights.safetensors"
    save_file(dict(weights), path)
    return path


def same(first: Weights, second: Weights) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def test_labels_may_differ_for_the_head_is_made_anew(tmp_path: Path) -> None:
    weights = weights_of(OTHER_LABELS)
    body = find_body([str(stored(tmp_path, weights))], TASK, tmp_path)
    assert same(body, without_head(weights))
    whole = warm_model(TASK, body)
    assert list(whole) == list(weights_of(TASK))
    assert whole["classify.weight"].shape == (2, 4)
    assert not any(value.any() for value in (whole["classify.weight"], whole["classify.bias"]))


def test_a_release_of_a_coordinator_is_a_source(tmp_path: Path) -> None:
    home = make_home(tmp_path / "server")
    release = open_versions(home).current()
    folder = release_folder(home.releases, 0)
    assert same(find_body([str(folder)], OTHER_LABELS, tmp_path), without_head(release.weights))
    (folder / "weights.safetensors").write_bytes(encode_weights(release.weights)[:-4])
    with pytest.raises(ProtocolError, match="FA-3012"):
        find_body([str(folder)], OTHER_LABELS, tmp_path)


@pytest.mark.parametrize(
    ("change", "named"),
    [({"width": 8}, r"is \(4,.*\), in tc-stream it is \(8,"), ({"architecture": "tc-window"}, "whiten.bias")],
)
def test_what_does_not_fit_is_refused_and_named(
    change: dict[str, object], named: str, tmp_path: Path
) -> None:
    path = stored(tmp_path, weights_of(TASK))
    with pytest.raises(CoordinatorError, match=rf"FA-5120.*{named}"):
        read_body(path, TASK.model_copy(update=change))


def test_a_release_of_another_front_end_is_refused_though_its_shapes_fit(tmp_path: Path) -> None:
    home = make_home(tmp_path / "server")
    open_versions(home).current()
    front_end = TASK.front_end.model_copy(update={"low_hz": 100.0})
    with pytest.raises(CoordinatorError, match=r"FA-5120.*front end"):
        read_body(release_folder(home.releases, 0), TASK.model_copy(update={"front_end": front_end}))


@pytest.mark.parametrize("fault", ["missing", "pickle", "nan", "double"])
def test_what_cannot_be_read_is_refused(fault: str, tmp_path: Path) -> None:
    weights: dict[str, np.ndarray] = dict(weights_of(TASK))
    if fault == "nan":
        weights["mix.weight"] = np.full_like(weights["mix.weight"], np.nan)
    if fault == "double":
        weights["mix.weight"] = weights["mix.weight"].astype(np.float64)
    path = stored(tmp_path, weights)
    if fault == "missing":
        path.unlink()
    if fault == "pickle":
        torch.save(weights, path)
    with pytest.raises(CoordinatorError, match="FA-5121"):
        read_body(path, TASK)


def test_weights_are_not_mixed_with_clips(tmp_path: Path) -> None:
    path = stored(tmp_path, weights_of(TASK))
    with pytest.raises(CoordinatorError, match="FA-5122"):
        find_body([str(path), "babble"], TASK, tmp_path)


def test_the_first_version_is_the_warm_one(tmp_path: Path) -> None:
    home, body = CoordinatorHome(tmp_path / "server"), without_head(weights_of(OTHER_LABELS))
    initialise(home, SETTINGS, names=["127.0.0.1"], make_body=lambda: body)
    home.releases.mkdir()
    assert same(open_versions(home).current().weights, warm_model(TASK, body))


def test_a_task_that_was_changed_since_is_refused(tmp_path: Path) -> None:
    home, body = CoordinatorHome(tmp_path / "server"), without_head(weights_of(TASK))
    initialise(home, SETTINGS, names=["127.0.0.1"], make_body=lambda: body)
    home.releases.mkdir()
    changed = SETTINGS.model_copy(update={"task": TASK.model_copy(update={"width": 8})})
    with pytest.raises(CoordinatorError, match="FA-5120"):
        open_versions(home, changed).current()


def test_nothing_is_made_when_the_warm_start_is_refused(tmp_path: Path) -> None:
    path = stored(tmp_path, weights_of(TASK))
    arguments = ["init", "--labels", "a,b", "--home", str(tmp_path / "server"), "--warm-start", str(path)]
    result = CliRunner().invoke(app, arguments, env={"XDG_CACHE_HOME": str(tmp_path / "cache")})
    assert isinstance(result.exception, CoordinatorError)
    assert result.exception.code == "FA-5120"
    assert not (tmp_path / "server").exists()


def test_the_command_keeps_the_body_for_the_first_start(tmp_path: Path) -> None:
    task = Task(labels=("a", "b"), architecture="tc-window")
    path = stored(tmp_path, weights_of(task.model_copy(update={"labels": ("one", "two", "three")})))
    home = CoordinatorHome(tmp_path / "server")
    arguments = ["init", "--labels", "a,b", "--home", str(home.root), "--architecture", "tc-window"]
    result = CliRunner().invoke(
        app, [*arguments, "--warm-start", str(path)], env={"XDG_CACHE_HOME": str(tmp_path / "cache")}
    )
    assert result.exit_code == 0, result.output
    assert load_settings(ServerSettings, home.config).task == task
    assert same(read_body(home.warm_start, task), read_body(path, task))
