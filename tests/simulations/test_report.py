"""A report is one page that loads nothing, says what was found, and trusts nothing that it was made from."""

from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from common.errors import FedAudioError
from simulations.report import render
from simulations.reports.curves import POINTS, Curve, accuracy_on_unseen
from simulations.results import DeviceResult, SimulationResults
from simulations.summary import summary
from simulations.sweep_results import Cell, SeedFigures, SweepResults
from tests.simulations.made_results import made_results


class Reader(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


def write(folder: Path, *found: SimulationResults) -> Path:
    for results in found:
        place = folder / f"seed-{results.seed}" if len(found) > 1 else folder
        place.mkdir(parents=True, exist_ok=True)
        (place / "results.json").write_text(results.model_dump_json())
    return folder


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    seeds = [made_results(seed, private=True, attacked=True, personal=True) for seed in range(3)]
    return render(write(tmp_path_factory.mktemp("runs"), *seeds))


HEADINGS = (
    "Accuracy over rounds",
    "Accuracy over bytes",
    "Loss over rounds",
    "Epsilon over rounds",
    "Attack success over rounds",
    "Device by device",
    "Unseen speakers",
    "Confusion",
    "Accuracy over simulated time",
    "Participation",
    "Time budget",
    "Rounds that made no version",
    "Settings",
)


def test_it_shows_all_that_was_found(page: str) -> None:
    assert tuple(re.findall(r"<h2>(.*?)</h2>", page)) == HEADINGS
    text = Reader(page).text
    for words in ("speaker 07", "basma", "FA-5106", "recipe.epochs", "3 attackers", "protects nobody"):
        assert words in text


def test_the_headline_is_the_mean_over_seeds_and_their_deviation(tmp_path: Path) -> None:
    seeds = [made_results(seed) for seed in range(2)]
    low, high = sorted(results.final.accuracy_unseen for results in seeds)
    text = Reader(render(write(tmp_path, *seeds))).text
    assert f"{(low + high) * 50:.1f} ± {(high - low) / 2**0.5 * 100:.1f} %" in text


def test_it_loads_nothing(page: str) -> None:
    reader = Reader(page)
    assert not reader.open
    assert not {"script", "link", "img", "iframe", "object", "image", "foreignobject", "a"} & set(reader.tags)
    assert not re.search(r"https?:|//\w|@import|data:", page)
    for name, value in reader.attributes:
        assert not name.startswith("on")
        if name in {"href", "src", "xlink:href"}:
            assert value.startswith("#")
    assert all(target.startswith("#") for target in re.findall(r"url\((.*?)\)", page))
    policy = dict(reader.attributes)["content"]
    assert "default-src 'none'" in page
    assert policy


def test_every_reference_in_it_finds_its_one_target(page: str) -> None:
    names = re.findall(r' id="(.*?)"', page)
    assert len(names) == len(set(names))
    used = set(re.findall(r"url\(#(.*?)\)", page)) | set(re.findall(r'xlink:href="#(.*?)"', page))
    assert used
    assert used <= set(names)


def test_every_colour_is_one_that_the_page_defines(page: str) -> None:
    used = set(re.findall(r"var\(--(\w+)\)", page))
    for paper in re.findall(r":root\{([^}]*)\}", page):
        assert used <= set(re.findall(r"--(\w+):", paper))
    figures = "".join(re.findall(r"<svg .*?</svg>", page, re.DOTALL))
    assert not re.findall(r"#[0-9a-f]{6}\b(?=[;\"])", figures)


def test_it_is_the_same_each_time(page: str, tmp_path: Path) -> None:
    seeds = [made_results(seed, private=True, attacked=True, personal=True) for seed in range(3)]
    assert render(write(tmp_path, *seeds)) == page


NAMES = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=30)


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(name="<script>alert(1)</script>")
@example(name='"><img src=x onerror=alert(1)>')
@example(name="a & b &lt; ]]> --> $x$ _y \\")
@given(name=NAMES)
def test_what_a_file_says_stays_text(name: str, tmp_path: Path) -> None:
    results = made_results(
        rounds=2, labels=(name, "b"), devices=(name, f"{name}2"), unseen=(name,), interrupted=True
    )
    results = results.model_copy(update={"config": {name: name}, "scenario": name})
    reader = Reader(render(write(tmp_path, results)))
    assert not reader.open
    assert not {"script", "img"} & set(reader.tags)
    assert not [attribute for attribute, _ in reader.attributes if attribute.startswith("on")]
    if name.isprintable():
        assert name in reader.text


@pytest.mark.parametrize(
    "results",
    [
        made_results(rounds=0),
        made_results(rounds=1, devices=(), unseen=()),
        made_results(
            rounds=3 * POINTS + 1, devices=tuple(f"device {number}" for number in range(500)), personal=True
        ),
        made_results(rounds=2, labels=tuple(f"label {number}" for number in range(200))),
    ],
    ids=["no round", "one round, no device", "many", "many labels"],
)
def test_any_size_makes_a_page_of_some_size(results: SimulationResults, tmp_path: Path) -> None:
    page = render(write(tmp_path, results))
    assert not Reader(page).open
    assert len(page) < 2_000_000


def test_accuracies_are_drawn_where_they_were_measured() -> None:
    results = made_results(rounds=40)  # of which rounds 17 and 34 made no version
    results = results.model_copy(update={"config": {"evaluate_every": 17, "number_of_rounds": 40}})
    assert accuracy_on_unseen([results]).rounds.tolist() == [0, 40]
    results = results.model_copy(update={"config": {"evaluate_every": 15, "number_of_rounds": 40}})
    assert accuracy_on_unseen([results]).rounds.tolist() == [0, 15, 30, 40]
    assert len(Curve.of([results], lambda each: each.accuracy_devices).rounds) == 40


def test_devices_accuracy_is_one_figure_in_all_tables(tmp_path: Path) -> None:
    results = made_results(0)
    uneven = tuple(
        DeviceResult(device=name, trained_on=9, clips=clips, correct=1)
        for name, clips in (("a", 1), ("b", 3), ("c", 3), ("d", 3))
    )
    results = results.model_copy(update={"devices": uneven})
    assert summary([results], tmp_path).seeds[0].accuracy_devices == 4 / 10
    assert "40.0 %" in Reader(render(write(tmp_path, results))).text


def test_a_sweep_says_where_noise_came_from_and_what_to_choose_by() -> None:
    def notes(*seeds: SimulationResults) -> str:
        cell = Cell(values={}, folder="all", seeds=tuple(map(SeedFigures.of, seeds)))
        return " ".join(SweepResults(scenario="x", keys=(), seeds=(0,), cells=(cell,)).notes)

    plain, private = made_results(0), made_results(0, private=True)
    last = plain.rounds[-1].model_copy(update={"accuracy_validation": 0.5})
    judged = plain.model_copy(update={"rounds": (*plain.rounds[:-1], last)})
    assert "data.validation" in notes(plain)
    assert "seeded" not in notes(plain)
    assert "protects nobody" in notes(private)
    assert "data.validation" not in notes(judged)
    assert SeedFigures.of(judged).accuracy_validation == 0.5
    assert SeedFigures.of(private).noise == "seed"


def test_a_seed_without_results_is_named(tmp_path: Path) -> None:
    write(tmp_path, made_results(0), made_results(1))
    (tmp_path / "seed-2").mkdir()
    assert "No results yet: seed-2." in render(tmp_path)


def test_seeds_of_other_scenarios_are_refused(tmp_path: Path) -> None:
    write(tmp_path, made_results(0), made_results(1, labels=("a", "b")))
    assert code_of(tmp_path) == "FA-9305"


def test_bad_input_ends_in_one_error(tmp_path: Path) -> None:
    assert code_of(tmp_path) == "FA-9303"
    assert code_of(tmp_path / "nowhere") == "FA-9303"
    document = json.loads(made_results(rounds=1).model_dump_json())
    for damaged in (b"", b"{", b"\xff\xfe", b"[]", json.dumps(document | {"of": "tomorrow"}).encode()):
        (tmp_path / "results.json").write_bytes(damaged)
        assert code_of(tmp_path) == "FA-9304"
    (tmp_path / "results.json").unlink()
    (tmp_path / "sweep.json").write_bytes(b"{}")
    assert code_of(tmp_path) == "FA-9304"


def test_without_matplotlib_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, made_results(rounds=1))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert code_of(tmp_path) == "FA-9301"


def test_a_sweep_is_a_table_and_a_curve_for_each_cell(tmp_path: Path) -> None:
    cells = []
    for number, rule in enumerate(("mean", "median", "<krum>")):
        seeds = [made_results(seed, rounds=5 + number) for seed in range(2)]
        write(tmp_path / f"cell-{number}", *seeds)
        figures = tuple(SeedFigures.of(results) for results in seeds)
        cells.append(Cell(values={"aggregation.rule": rule}, folder=f"cell-{number}", seeds=figures))
    cells.append(Cell(values={"aggregation.rule": "bulyan"}, folder="cell-9"))
    sweep = SweepResults(
        scenario="made-up",
        keys=("aggregation.rule",),
        seeds=(0, 1),
        cells=tuple(cells),
    )
    (tmp_path / "sweep.json").write_text(sweep.model_dump_json())
    page = render(tmp_path)
    reader = Reader(page)
    assert not reader.open
    assert "<krum>" in reader.text
    assert "6 of 8 runs are done." in reader.text
    assert reader.text.count("median") >= 3
    assert render(tmp_path) == page


def code_of(folder: Path) -> str:
    with pytest.raises(FedAudioError) as caught:
        render(folder)
    assert caught.value.happened.endswith(".")
    assert caught.value.remedy
    return caught.value.code
