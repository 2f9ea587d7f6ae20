"""A scenario may begin with what was learned elsewhere; with `trained = "head"` that stays as it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import ConfigError, CoordinatorError
from common.models.acoustic import without_head
from common.models.registry import build_model
from common.models.weights import get_weights
from common.privacy.forecast import Schedule
from common.protocol.release import load_release
from common.protocol.tensors import Weights, encode_weights
from common.task import Task
from simulations.engine import simulate
from simulations.load import load_scenario
from simulations.progress import Progress
from simulations.scenario import Scenario
from tests.simulations.made_pool import quick

OTHER = Task(labels=("a", "b", "c"), width=4)
PRIVATE = {"noise_multiplier": 1.0, "delta": 1e-3}


def body_file(folder: Path) -> tuple[Path, Weights]:
    weights = get_weights(build_model(OTHER, torch.Generator().manual_seed(8)))
    path = folder / "body.safetensors"
    path.write_bytes(encode_weights(weights))
    return path, without_head(weights)


def warm(small: Scenario, source: str, trained: str) -> Scenario:
    tables = {"warm_start": {"sources": [source], "epochs": 1}, "recipe": {"steps": 2, "trained": trained}}
    return quick(small, **tables, privacy=PRIVATE, number_of_rounds=1)


@pytest.mark.parametrize("trained", ["head", "all"])
def test_it_begins_with_the_body_and_a_private_head_leaves_it_alone(
    trained: str, small: Scenario, tmp_path: Path, cache: Path
) -> None:
    path, body = body_file(tmp_path)
    results = simulate(warm(small, str(path), trained), 0, tmp_path / "run", cache=cache)
    weights = load_release(tmp_path / "run" / "release").weights
    same = [np.array_equal(weights[name], value) for name, value in body.items()]
    assert all(same) if trained == "head" else not any(same)
    assert weights["classify.weight"].any()
    cost = results.rounds[-1].bytes_up / results.rounds[-1].participants
    whole = sum(value.nbytes for value in weights.values())
    assert (cost > whole) == (trained == "all")


def test_a_collection_is_learned_from_once_for_all_seeds(
    small: Scenario, collection: Path, tmp_path: Path
) -> None:
    scenario, cache = warm(small, str(collection), "head"), tmp_path / "cache"
    starts = []
    for seed in (0, 1):
        told: list[Progress] = []
        simulate(scenario, seed, tmp_path / str(seed), cache=cache, watch=told.append)
        assert [one.doing for one in told[:2]] == ["preparing", "learning"]
        assert told[1].sources == (collection.name,)
        weights = without_head(load_release(tmp_path / str(seed) / "release").weights)
        starts.append(encode_weights(weights))
        assert len(list((cache / "bodies").iterdir())) == 1
    assert starts[0] == starts[1]


def test_weights_that_do_not_fit_end_it(small: Scenario, tmp_path: Path, cache: Path) -> None:
    path, _ = body_file(tmp_path)
    scenario = quick(small, warm_start={"sources": [str(path)]}, task={"architecture": "tc-window"})
    with pytest.raises(CoordinatorError, match="FA-5120"):
        simulate(scenario, 0, tmp_path / "run", cache=cache)


def test_what_devices_are_tested_on_is_no_warm_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("arabic_speech_commands", "fsdd"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("FEDAUDIO_DATA", str(tmp_path))
    with pytest.raises(ConfigError, match=r"FA-6003.*tested on"):
        load_scenario("private-keywords", ['warm_start.sources=["fsdd", "arabic_speech_commands"]'])


def test_sources_are_looked_for_where_data_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("arabic_speech_commands", "fsdd"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("FEDAUDIO_DATA", str(tmp_path))
    scenario = load_scenario("private-keywords")
    assert scenario.warm_start is not None
    assert scenario.warm_start.sources == ("babble", str(tmp_path / "fsdd"))
    # The shipped scenario says in words what its noise comes to.
    assert scenario.privacy is not None
    needed = Schedule(1, 1, 1, scenario.number_of_rounds, 14, scenario.privacy.delta).noise_for(8.0)
    assert scenario.privacy.noise_multiplier == needed
