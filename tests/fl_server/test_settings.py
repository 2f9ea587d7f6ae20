"""Settings that do not go together are refused, at a coordinator and in a simulation alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomli_w

from common.errors import ConfigError
from common.settings import load_settings
from common.task import Task
from fl_server.settings import ServerSettings
from simulations.scenario import Scenario

SCAFFOLD = {"algorithm": "scaffold", "optimizer": "sgd", "momentum": 0.0, "gradient_clip": 0.0}
MEAN: dict[str, Any] = {"rule": "mean", "mixing": "off", "norm_clipping": 0.0}
OTHERS: list[dict[str, Any]] = [
    {},
    MEAN | {"rule": "trimmed-mean"},
    MEAN | {"mixing": "distance"},
    MEAN | {"norm_clipping": 1.0},
]


@pytest.fixture(params=["coordinator", "simulation"])
def make(request: pytest.FixtureRequest) -> Any:
    def settings(**tables: Any) -> ServerSettings | Scenario:
        if request.param == "simulation":
            return Scenario.model_validate({"name": "x"} | tables)
        return ServerSettings.model_validate({"task": Task(labels=("a", "b"))} | tables)

    return settings


def test_scaffold_goes_with_the_mean_as_it_is_and_with_nothing_else(make: Any) -> None:
    assert make(recipe=SCAFFOLD, aggregation=MEAN).recipe.algorithm == "scaffold"
    for other in OTHERS:
        assert make(aggregation=other).recipe.algorithm == "fedavg"
        with pytest.raises(ValueError, match="shifts its control variates for good"):
            make(recipe=SCAFFOLD, aggregation=other)


def test_clips_weigh_only_in_a_mean(make: Any) -> None:
    clips = {"weighting": "clips"}
    assert make(rounds=clips, aggregation=MEAN | {"norm_clipping": 1.0}).rounds.weighting == "clips"
    for other in OTHERS[:3]:
        with pytest.raises(ValueError, match="every update counts as one"):
            make(rounds=clips, aggregation=other)


def test_clips_do_not_weigh_under_privacy() -> None:
    chosen = {"task": {"labels": ["a", "b"]}, "rounds": {"weighting": "clips"}, "aggregation": MEAN}
    assert ServerSettings.model_validate(chosen).privacy is None
    with pytest.raises(ValueError, match="no device says how many"):
        ServerSettings.model_validate(chosen | {"privacy": {}})


def test_the_file_is_refused_in_words_for_people(tmp_path: Path) -> None:
    path = tmp_path / "server.toml"
    path.write_text(tomli_w.dumps({"task": {"labels": ["a", "b"]}, "recipe": SCAFFOLD}))
    with pytest.raises(ConfigError, match=r"FA-6003.*server.toml: Value error, scaffold needs aggregation"):
        load_settings(ServerSettings, path)
