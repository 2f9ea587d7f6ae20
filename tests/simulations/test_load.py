"""Scenarios by name and by path, changed from the command line, and those that are shipped."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigError, FedAudioError, SimulationError
from simulations.behaviour import make_behaviour
from simulations.load import load_scenario, shipped_scenarios
from simulations.scenario import Scenario
from simulations.world import build_world

SHIPPED = shipped_scenarios()
REAL = {name for name in SHIPPED if name.startswith(("keywords-", "private-", "scenes-"))}


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No data but what a test names."""
    monkeypatch.delenv("FEDAUDIO_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


def written(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


class TestOverrides:
    @pytest.mark.parametrize(
        ("override", "of", "value"),
        [
            ("number_of_rounds=3", lambda s: s.number_of_rounds, 3),
            ("population.devices = 20", lambda s: s.population.devices, 20),
            ("population.partition=iid", lambda s: s.population.partition, "iid"),
            ('population.partition="iid"', lambda s: s.population.partition, "iid"),
            (
                "recipe.augmentation.noise_snr_db=[3, 4.5]",
                lambda s: s.recipe.augmentation.noise_snr_db,
                (3, 4.5),
            ),
            ("data.unseen=['v001', 'v002']", lambda s: s.data.unseen, ("v001", "v002")),
            ("privacy.noise_multiplier=2", lambda s: s.privacy.noise_multiplier, 2.0),
            ("rounds.evaluate=false", lambda s: s.rounds.evaluate, False),
            ("about=a = b", lambda s: s.about, "a = b"),
            ("about=", lambda s: s.about, ""),
            ("about='x'\nname='y'", lambda s: (s.about, s.name), ("'x'\nname='y'", "synthetic-10000")),
        ],
    )
    def test_a_value_is_toml_or_else_text(self, override: str, of: object, value: object) -> None:
        assert of(load_scenario("synthetic-10000", [override])) == value  # type: ignore[operator]

    def test_the_last_one_counts_and_the_rest_of_a_table_stays(self) -> None:
        scenario = load_scenario("synthetic-10000", ["rounds.cohort=5", "rounds.cohort=7"])
        assert scenario.rounds.cohort == 7
        assert scenario.rounds.evaluate is False

    def test_an_unknown_key_is_told_the_nearest(self) -> None:
        with pytest.raises(ConfigError, match=r"FA-6003.*population\.device'.*'devices'"):
            load_scenario("synthetic-10000", ["population.device=3"])
        with pytest.raises(ConfigError, match=r"FA-6003.*'number_of_round'.*'number_of_rounds'"):
            load_scenario("synthetic-10000", ["number_of_round=3"])

    @pytest.mark.parametrize("override", ["name", "=3", ".x=1", "a..b=1", "population.=1", "name.x=1", ""])
    def test_a_malformed_one_is_an_error(self, override: str) -> None:
        with pytest.raises(SimulationError, match="FA-9101"):
            load_scenario("synthetic-10000", [override])

    @given(st.text())
    def test_any_text_is_a_scenario_or_an_error_with_a_code(self, text: str) -> None:
        with suppress(FedAudioError):
            load_scenario("synthetic-10000", [text])

    @given(st.text())
    def test_any_text_can_be_a_value(self, text: str) -> None:
        with suppress(ConfigError):  # of another type: a number, for example
            assert load_scenario("synthetic-10000", [f"about={text}"]).name == "synthetic-10000"


class TestFiles:
    def test_a_name_that_is_nearly_right_is_told_the_right_one(self) -> None:
        with pytest.raises(SimulationError, match=r"FA-9100.*keywords-arabik.*keywords-arabic"):
            load_scenario("keywords-arabik")
        with pytest.raises(SimulationError, match=r"FA-9100.*poisoned"):
            load_scenario("zzz")
        with pytest.raises(SimulationError, match="FA-9100"):
            load_scenario("../scenarios/poisoned")
        with pytest.raises(SimulationError, match="FA-9100"):
            load_scenario("")

    def test_a_file_that_is_no_toml_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"FA-6002.*x\.toml"):
            load_scenario(written(tmp_path / "x.toml", "name = "))
        (tmp_path / "y.toml").write_bytes(b"\xff\xfe")
        with pytest.raises(ConfigError, match=r"FA-6002.*y\.toml"):
            load_scenario(str(tmp_path / "y.toml"))

    def test_data_is_looked_for_beside_the_file_and_then_in_the_folder_of_data(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        own = written(
            tmp_path / "here" / "own.toml", 'name = "own"\ndata.path = "clips"\nbehaviour.trace = "t.csv"'
        )
        with pytest.raises(SimulationError, match=r"FA-9102.*FEDAUDIO_DATA"):
            load_scenario(own)
        monkeypatch.setenv("FEDAUDIO_DATA", str(tmp_path / "data"))
        with pytest.raises(SimulationError, match=rf"FA-9102.*{tmp_path / 'data' / 'clips'}"):
            load_scenario(own)
        (tmp_path / "data" / "clips").mkdir(parents=True)
        written(tmp_path / "data" / "t.csv", "")
        scenario = load_scenario(own)
        assert scenario.data.path == tmp_path / "data" / "clips"
        assert scenario.behaviour.trace == tmp_path / "data" / "t.csv"
        (tmp_path / "here" / "clips").mkdir()
        assert load_scenario(own).data.path == tmp_path / "here" / "clips"
        absolute = tmp_path / "data" / "clips"
        assert load_scenario(own, [f"data.path={absolute}"]).data.path == absolute
        with pytest.raises(SimulationError, match="FA-9102"):
            load_scenario(own, ["data.path=/no/such/folder"])

    def test_a_shipped_scenario_takes_data_from_the_current_folder(self, tmp_path: Path) -> None:
        (tmp_path / "mine").mkdir()
        assert load_scenario("poisoned", ["data.path=mine"]).data.path == tmp_path / "mine"

    def test_a_path_found_is_absolute_whatever_the_scenario_was_called_by(self, tmp_path: Path) -> None:
        written(tmp_path / "own.toml", 'name = "own"\ndata.path = "clips"')
        (tmp_path / "clips").mkdir()
        assert load_scenario("own.toml").data.path == tmp_path / "clips"


class TestShipped:
    def test_there_are_some_and_each_says_what_it_is(self) -> None:
        assert set(SHIPPED) >= {"keywords-arabic", "keywords-fsdd", "scenes-esc10", "synthetic-10000"}
        assert all(about.endswith(".") for about in SHIPPED.values())

    @pytest.mark.parametrize("name", SHIPPED)
    def test_each_is_as_long_as_a_few_lines_and_loads_by_its_name(self, name: str, tmp_path: Path) -> None:
        for folder in ("clips", "fsdd"):
            (tmp_path / folder).mkdir()
        assert load_scenario(name, ["data.path=clips"] if name in REAL else []).name == name

    @pytest.mark.parametrize("name", [name for name in SHIPPED if name not in REAL])
    def test_the_worlds_of_synthetic_ones_can_be_made(self, name: str, cache: Path, tmp_path: Path) -> None:
        # With one take of each word, so that the corpus is made in seconds.
        self.check(load_scenario(name, ["data.takes=1"]), cache, tmp_path)

    @pytest.mark.parametrize("name", sorted(REAL - {"keywords-speech-commands"}))
    def test_the_worlds_of_real_ones_can_be_made(
        self, name: str, cache: Path, tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("FEDAUDIO_DATA", str(shared_data))
        self.check(load_scenario(name), cache, tmp_path)

    def check(self, scenario: Scenario, cache: Path, folder: Path) -> None:
        world = build_world(scenario, 0, folder / "world", cache)
        assert len(world.population) == scenario.population.devices
        assert all(len(world.population.data(device)) for device in range(0, len(world.population), 100))
        assert len(world.unseen)
        make_behaviour(scenario.behaviour, len(world.population), 0)
        scenario.server_settings(world.task, 0)


SCAFFOLD = (
    "recipe.algorithm=scaffold",
    "recipe.optimizer=sgd",
    "recipe.momentum=0",
    "recipe.gradient_clip=0",
)


@pytest.mark.parametrize(
    "override",
    [
        ("privacy.unit=recording",),
        ("privacy.units=20000",),
        ("privacy.average=0.9", *SCAFFOLD),
        ("rounds.weighting=clips",),
    ],
)
def test_what_privacy_does_not_go_with_is_refused_at_once(override: tuple[str, ...]) -> None:
    bare_mean = ("aggregation.rule=mean", "aggregation.mixing=off", "aggregation.norm_clipping=0")
    with pytest.raises(ConfigError, match="FA-6003"):
        load_scenario("synthetic-10000", ["privacy.delta=1e-5", *bare_mean, *override])
