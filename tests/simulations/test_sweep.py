"""A sweep runs each cell with each seed once, whatever stops it, and its table says what came out."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import FedAudioError
from simulations.report import render
from simulations.results import SimulationResults
from simulations.sweep import SweepProgress, parse_grid, plan_sweep, sweep
from simulations.sweep_results import Spread, SweepResults
from tests.simulations.made_results import TINY


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("scenario") / "tiny.toml"
    path.write_text(TINY)
    return str(path)


@pytest.fixture(scope="module")
def out(scenario: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a sweep over two cells with one seed, which is over."""
    folder = tmp_path_factory.mktemp("sweep")
    cells = plan_sweep(scenario, parse_grid(["recipe.learning_rate=0.01,0.1"]), [])
    sweep(cells, [0], folder)
    return folder


def test_each_cell_is_a_run_of_its_own_scenario(out: Path) -> None:
    found = SweepResults.model_validate_json((out / "sweep.json").read_bytes())
    assert [cell.values for cell in found.cells] == [
        {"recipe.learning_rate": "0.01"},
        {"recipe.learning_rate": "0.1"},
    ]
    for cell in found.cells:
        run = out / cell.folder / "seed-0"
        results = SimulationResults.model_validate_json((run / "results.json").read_bytes())
        rate = json.loads((run / "scenario.json").read_bytes())["recipe"]["learning_rate"]
        assert rate == float(cell.values["recipe.learning_rate"])
        (figures,) = cell.seeds
        assert figures.accuracy_unseen == results.final.accuracy_unseen
        assert figures.bytes == sum(each.bytes_up + each.bytes_down for each in results.rounds) > 0
    with (out / "sweep.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["recipe.learning_rate"] for line in lines] == ["0.01", "0.1"]
    assert [float(line["accuracy_unseen"]) for line in lines] == [
        cell.seeds[0].accuracy_unseen for cell in found.cells
    ]


def test_what_is_done_is_not_done_again(scenario: str, out: Path) -> None:
    before = (out / "sweep.json").read_bytes()
    runs: list[SweepProgress] = []
    cells = plan_sweep(scenario, parse_grid(["recipe.learning_rate=0.01,0.1"]), [])
    sweep(cells, [0], out, watch=runs.append)
    assert not runs
    assert (out / "sweep.json").read_bytes() == before


def test_a_changed_scenario_is_another_cell(scenario: str) -> None:
    grid = parse_grid(["recipe.learning_rate=0.01,0.1"])
    folders = [
        cell.folder for changed in ([], ["recipe.epochs=2"]) for cell in plan_sweep(scenario, grid, changed)
    ]
    assert len(set(folders)) == 4


def test_a_report_shows_it(out: Path) -> None:
    page = render(out)
    assert "learning_rate 0.01" in page
    assert "Accuracy over rounds" in page


def test_stopped_by_ctrl_c_it_goes_on_where_it_was(scenario: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.simulations.sweep_process", scenario, str(tmp_path)]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "second cell\n"
    os.kill(process.pid, signal.SIGINT)
    rest, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "done 1\n" in rest
    stopped = SweepResults.model_validate_json((tmp_path / "sweep.json").read_bytes())
    assert [len(cell.seeds) for cell in stopped.cells] == [1, 0]
    first = stopped.cells[0].seeds[0]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    assert "done 2\n" in done.stdout
    ended = SweepResults.model_validate_json((tmp_path / "sweep.json").read_bytes())
    assert ended.cells[0].seeds == (first,)


BARE = st.from_regex(r"[a-z0-9.]{1,8}", fullmatch=True)
VALUES = (
    BARE | st.lists(st.integers(), min_size=2).map(json.dumps) | BARE.map(lambda text: f'"{text},{text}"')
)


@given(st.lists(VALUES, min_size=1, max_size=6, unique=True))
def test_values_are_split_at_their_own_commas(values: list[str]) -> None:
    assert parse_grid([f"a.b={','.join(values)}"]) == {"a.b": tuple(values)}


@pytest.mark.parametrize("texts", [["a"], ["a="], ["=1"], ["a=1,,2"], ["a=1,1"], ["a=1", "a=2"]])
def test_a_grid_that_means_nothing_is_refused(texts: list[str]) -> None:
    with pytest.raises(FedAudioError) as caught:
        parse_grid(texts)
    assert caught.value.code == "FA-9308"


def test_an_impossible_cell_is_refused_before_anything_runs(scenario: str) -> None:
    with pytest.raises(FedAudioError):
        plan_sweep(scenario, parse_grid(["recipe.epochs=1,-1"]), [])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_a_mean_lies_among_its_values(values: list[float]) -> None:
    spread = Spread.of([None, *values])
    assert spread is not None
    assert min(values) - 1e-12 <= spread.mean <= max(values) + 1e-12
    assert (spread.deviation is None) == (len(values) == 1)
