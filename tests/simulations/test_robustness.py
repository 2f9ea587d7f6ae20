"""A grid of attacks and rules, with real simulations: its cells, what is compared, and going on with it."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean

import pytest
import typer
from typer.testing import CliRunner

from common.errors import ConfigError, SimulationError
from fl_server.settings import Aggregation
from simulations.load import load_scenario
from simulations.robustness import Watched, choose_attack, choose_rule, measure, usual_rules
from simulations.robustness_cli import robustness
from simulations.robustness_results import RobustnessCell, RobustnessResults, RobustnessRun
from simulations.scenario import AttackChoice, Scenario

TINY = """
name = "tiny"
number_of_rounds = 2
[data]
voices = 5
takes = 1
unseen = 1
[task]
width = 8
front_end = { kind = "log-mel", hop = 320 }
[population]
devices = 5
partition = "iid"
[attack]
share = 0.2
[rounds]
min_devices = 1
evaluate = false
[recipe]
epochs = 1
[recipe.augmentation]
shift_seconds = 0.0
gain_db = 0.0
noise_probability = 0.0
time_masks = 0
band_masks = 0
"""


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scenario") / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def grid(scenario: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RobustnessResults]:
    """Two attacks against two rules, from the command line."""
    folder = tmp_path_factory.mktemp("grid")
    return folder, run(scenario, folder)


def run(scenario: Path, folder: Path, *more: str, status: int = 0) -> RobustnessResults:
    app = typer.Typer()
    app.command()(robustness)
    said = CliRunner().invoke(
        app,
        [
            str(scenario),
            "--attacks=none,backdoor=20",
            "--rules=mean,median+clipping",
            f"--out={folder}",
            "--workers=1",
            "--json",
            *more,
        ],
        catch_exceptions=False,
    )
    assert said.exit_code == status
    return RobustnessResults.model_validate_json(said.stdout)


class TestGrid:
    def test_has_a_cell_for_each_pair(self, grid: tuple[Path, RobustnessResults]) -> None:
        folder, results = grid
        pairs = {(cell.attack, cell.rule) for cell in results.cells}
        attacks, rules = ("none", "backdoor=20"), ("mean", "median+clipping")
        assert pairs == {(attack, rule) for attack in attacks for rule in rules}
        assert RobustnessResults.model_validate_json((folder / "robustness.json").read_bytes()) == results
        assert (results.scenario, results.share, results.rounds, results.seeds) == ("tiny", 0.2, 2, (0,))

    def test_runs_what_it_says(self, grid: tuple[Path, RobustnessResults]) -> None:
        folder, _ = grid
        about = Scenario.model_validate_json(
            (folder / "backdoor=20_median+clipping/seed-0/scenario.json").read_bytes()
        )
        assert (about.attack.kind, about.attack.strength, about.attack.share) == ("backdoor", 20, 0.2)
        assert (about.aggregation.rule, about.aggregation.mixing) == ("median", "off")
        assert about.aggregation.norm_clipping > 0

    def test_points_are_lost_against_the_baseline(self, grid: tuple[Path, RobustnessResults]) -> None:
        _, results = grid
        baseline = results.cell("none", "mean")
        assert baseline is not None
        assert baseline.points_lost == 0
        assert results.baseline == baseline.accuracy
        for cell in results.cells:
            assert cell.points_lost == pytest.approx(100 * (baseline.accuracy - cell.accuracy))

    def test_only_a_backdoor_has_a_success(self, grid: tuple[Path, RobustnessResults]) -> None:
        _, results = grid
        for cell in results.cells:
            assert (cell.attack_success is not None) == (cell.attack == "backdoor=20")

    def test_figures_are_those_of_the_runs(self, grid: tuple[Path, RobustnessResults]) -> None:
        folder, results = grid
        for cell in results.cells:
            found = json.loads(
                (folder / f"{cell.attack}_{cell.rule}" / "seed-0" / "results.json").read_bytes()
            )
            (only,) = cell.runs
            assert only.accuracy == cell.accuracy == found["final"]["accuracy_unseen"]
            assert not (folder / f"{cell.attack}_{cell.rule}" / "seed-0" / "release").exists()
            assert only.attack_success == found["rounds"][-1]["attack_success"]


class TestGoingOn:
    def test_runs_only_what_is_missing(self, grid: tuple[Path, RobustnessResults], scenario: Path) -> None:
        folder, results = grid
        kept = folder / "none_mean" / "seed-0" / "results.json"
        lost = folder / "backdoor=20_mean" / "seed-0"
        before = {path: path.stat().st_mtime_ns for path in (kept, lost / "results.json")}
        (lost / "results.json").unlink()
        assert run(scenario, folder) == results
        assert kept.stat().st_mtime_ns == before[kept]
        assert (lost / "results.json").stat().st_mtime_ns > before[lost / "results.json"]

    def test_does_not_take_another_scenarios_results_for_its_own(
        self, grid: tuple[Path, RobustnessResults], scenario: Path
    ) -> None:
        folder, _ = grid
        with pytest.raises(SimulationError, match="FA-9002"):
            run(scenario, folder, "--rounds=3")

    def test_stops_where_it_is_interrupted_and_says_what_is_finished(
        self, grid: tuple[Path, RobustnessResults], scenario: Path, tmp_path: Path
    ) -> None:
        def interrupt(watched: Watched) -> None:
            if watched.finished == 1 and watched.progress.doing == "training":
                raise KeyboardInterrupt

        results = measure(load_scenario(str(scenario)), ["ipm=20"], ["mean"], [0], tmp_path, watch=interrupt)
        assert [(cell.attack, cell.rule) for cell in results.cells] == [("none", "mean")]
        assert results.baseline == grid[1].baseline
        assert not results.finished
        assert RobustnessResults.model_validate_json((tmp_path / "robustness.json").read_bytes()) == results

    def test_interrupted_on_the_command_line_it_exits_as_a_shell_expects(
        self, scenario: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        written = (tmp_path / "robustness.json").exists

        def stopped(*arguments: object, **options: object) -> None:
            assert written()
            raise KeyboardInterrupt

        monkeypatch.setattr("simulations.robustness.simulate", stopped)
        app = typer.Typer()
        app.command()(robustness)
        said = CliRunner().invoke(app, [str(scenario), f"--out={tmp_path}", "--attacks=zero", "--json"])
        assert said.exit_code == 130
        assert not RobustnessResults.model_validate_json(said.stdout).cells

    def test_damaged_results_are_run_again(
        self, grid: tuple[Path, RobustnessResults], scenario: Path
    ) -> None:
        folder, results = grid
        damaged = folder / "none_mean" / "seed-0" / "results.json"
        damaged.write_bytes(damaged.read_bytes()[:100])
        assert run(scenario, folder) == results


class TestTable:
    def test_shows_accuracy_points_and_success(
        self, grid: tuple[Path, RobustnessResults], scenario: Path
    ) -> None:
        folder, results = grid
        app = typer.Typer()
        app.command()(robustness)
        arguments = ["--attacks=none,backdoor=20", "--rules=mean,median+clipping", f"--out={folder}"]
        said = CliRunner().invoke(app, [str(scenario), *arguments], env={"COLUMNS": "200"}).stdout
        cell = results.cell("backdoor=20", "mean")
        assert cell is not None
        assert cell.attack_success is not None
        assert f"{cell.accuracy:.1%} ({-cell.points_lost:+.1f}), {cell.attack_success:.1%} open" in said
        assert "20% of the devices attack, mean of 1 seeds" in said


class TestMeans:
    def test_are_over_the_seeds_that_a_cell_has(self) -> None:
        runs = [
            RobustnessRun(
                seed=seed, accuracy=accuracy, attack_success=success, attack_turned=0.0, void=void, noise=None
            )
            for seed, accuracy, success, void in ((0, 0.5, 0.1, 0), (1, 0.7, 0.3, 3))
        ]
        cell = RobustnessCell.of("backdoor", "mean", runs, {0: 0.6, 1: 0.9, 2: 0.1})
        assert cell.accuracy == pytest.approx(0.6)
        assert cell.points_lost == pytest.approx(100 * fmean((0.1, 0.2)))
        assert cell.attack_success == pytest.approx(0.2)
        assert cell.void == 1.5


class TestRulesThatCanWork:
    def test_usual_rules_are_those_that_can(self, scenario: Path) -> None:
        without = load_scenario(str(scenario))
        clips = load_scenario(str(scenario), ["data.validation=1"])
        few = load_scenario(str(scenario), ["rounds.cohort=4", "aggregation.attackers=0.3"])
        assert {"krum", "multi-krum", "default"} <= {*usual_rules(without)}
        assert "trust" not in usual_rules(without)
        assert "trust" in usual_rules(clips)
        assert not {"krum", "multi-krum"} & {*usual_rules(few)}

    def test_one_that_cannot_is_refused_before_the_first_run(self, scenario: Path, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="FA-6041"):
            measure(load_scenario(str(scenario)), ["none"], ["mean", "trust"], [0], tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_the_share_is_the_scenarios_unless_it_is_given(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shares = []

        def stopped(scenario: Scenario, *arguments: object, **options: object) -> None:
            shares.append(scenario.attack.share)
            raise KeyboardInterrupt

        monkeypatch.setattr("simulations.robustness.simulate", stopped)
        poisoned = tmp_path / "poisoned.toml"
        poisoned.write_text(TINY.replace("share = 0.2", 'kind = "zero"\nshare = 0.4'))
        own = run(poisoned, tmp_path / "own", status=130)
        given = run(poisoned, tmp_path / "given", "--share=0.3", status=130)
        assert [own.share, given.share] == shares == [0.4, 0.3]


class TestNames:
    def test_an_attack_keeps_what_the_scenario_says_of_the_attackers(self) -> None:
        base = AttackChoice(kind="zero", share=0.3, from_round=5, strength=9)
        assert choose_attack("alie", base) == AttackChoice(kind="alie", share=0.3, from_round=5)
        assert choose_attack("alie=1.5", base).strength == 1.5

    def test_default_is_the_scenarios_own_rule(self) -> None:
        base = Aggregation(rule="krum", attackers=0.1)
        assert choose_rule("default", base) is base

    @pytest.mark.parametrize(
        ("name", "rule"),
        [
            ("mean", Aggregation(rule="mean", mixing="off", norm_clipping=0)),
            ("median", Aggregation(rule="median", mixing="off", norm_clipping=0)),
            ("krum+mixing", Aggregation(rule="krum", norm_clipping=1.7, mixing="direction")),
            ("mean+clipping", Aggregation(rule="mean", mixing="off", norm_clipping=1.7)),
            ("mean+clipping+mixing", Aggregation(rule="mean", norm_clipping=1.7, mixing="direction")),
        ],
    )
    def test_a_rule_does_no_more_than_its_name_says(self, name: str, rule: Aggregation) -> None:
        base = Aggregation(rule="trust", norm_clipping=1.7, mixing="direction", attackers=0.3)
        assert choose_rule(name, base) == rule.model_copy(update={"attackers": 0.3})

    @pytest.mark.parametrize("name", ["sign-flop", "ipm=strong", "ipm=-1", "", "=2"])
    def test_an_unknown_attack_is_refused(self, name: str) -> None:
        with pytest.raises(SimulationError, match="FA-9202"):
            choose_attack(name, AttackChoice())

    @pytest.mark.parametrize("name", ["medium", "mean+mixing+mixing", "mean+", "default+mixing", ""])
    def test_an_unknown_rule_is_refused(self, name: str) -> None:
        with pytest.raises(SimulationError, match="FA-9203"):
            choose_rule(name, Aggregation())

    def test_a_strength_that_is_none_is_named(self) -> None:
        with pytest.raises(SimulationError, match="'abc' is no strength of the attack sign-flip"):
            choose_attack("sign-flip=abc", AttackChoice())

    def test_the_nearest_name_is_offered(self) -> None:
        with pytest.raises(SimulationError, match="'sign-flip'"):
            choose_attack("sign-flop", AttackChoice())
