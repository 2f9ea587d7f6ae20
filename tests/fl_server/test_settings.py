"""Settings that do not go together are refused, at a coordinator and in a simulation alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomli_w

from common.errors import ConfigError
from common.protocol.plan import PRIVATE_RECIPE, Privacy, Recipe
from common.settings import load_settings
from common.task import Task
from fl_server.home import CoordinatorHome
from fl_server.initialise import initialise
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


def private_recipe(**given: object) -> Recipe:
    task = {"labels": ["a", "b"]}
    return ServerSettings.model_validate({"task": task, "privacy": {}, "recipe": given}).recipe


def test_with_privacy_the_recipe_is_the_private_one_but_for_what_is_given() -> None:
    assert private_recipe() == PRIVATE_RECIPE
    given = private_recipe(learning_rate=0.3, augmentation={"gain_db": 3.0})
    augmentation = PRIVATE_RECIPE.augmentation.model_copy(update={"gain_db": 3.0})
    assert given == PRIVATE_RECIPE.model_copy(update={"learning_rate": 0.3, "augmentation": augmentation})
    assert ServerSettings(task=Task(labels=("a", "b"))).recipe == Recipe()


def test_a_default_gives_way_to_what_it_does_not_go_with() -> None:
    by_epochs = private_recipe(epochs=5)
    assert (by_epochs.steps, by_epochs.epochs, by_epochs.trained) == (None, 5, "head")
    assert private_recipe(optimizer="adamw").learning_rate == Recipe().learning_rate
    assert private_recipe(algorithm="fedper") == Recipe(algorithm="fedper")


@pytest.mark.parametrize("recipe", [{"epochs": 3}, {"trained": "all", "steps": 7}])
def test_what_a_private_coordinator_is_made_with_is_what_it_reads(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    settings = ServerSettings(
        task=Task(labels=("a", "b")), privacy=Privacy(), recipe=Recipe.model_validate(recipe)
    )
    home = CoordinatorHome(tmp_path / "server")
    initialise(home, settings, names=["127.0.0.1"])
    assert load_settings(ServerSettings, home.config).recipe == settings.recipe
