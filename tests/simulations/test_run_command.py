"""`fedaudio simulate`, as a person and a shell meet it."""

from __future__ import annotations

import json

from rich.console import Console

from simulations.load import shipped_scenarios
from simulations.progress import Progress
from simulations.run_cli import complete
from simulations.view import RunView, void_rounds
from tests.processes import run_cli
from tests.simulations.made_results import made_results


def test_the_shell_knows_the_scenarios() -> None:
    assert complete("") == list(shipped_scenarios())
    assert complete("keywords-a") == ["keywords-arabic"]
    assert complete("nothing") == []


def test_the_scenarios_are_listed() -> None:
    listed = run_cli("simulate", "list", "--json")
    assert json.loads(listed.stdout) == shipped_scenarios()


def test_a_scenario_that_is_not_there() -> None:
    failed = run_cli("simulate", "run", "keywords-arabik")
    assert failed.returncode == 9
    assert failed.stderr.startswith("FA-9100:")
    assert "keywords-arabic" in failed.stderr


def test_a_line_a_round_where_there_is_no_terminal() -> None:
    console = Console(record=True, width=200, force_terminal=False, quiet=False)
    with RunView(console, 3) as view:
        view.update(Progress("preparing", 2))
        for number in (1, 2):
            view.update(Progress("training", 2, number, 5, 10, 0.4))
            view.update(Progress("over", 2, number, 10, 10, 0.5, epsilon=1.25, attack_success=0.125))
        view.update(Progress("over", 3, 3, 0, 10, 0.5, void="FA-5004"))
        view.update(Progress("finishing", 3, 3))
    assert console.export_text().splitlines() == [
        *(f"seed 3, round {number}/2: unseen 0.500, epsilon 1.25, attack 0.125" for number in (1, 2)),
        "seed 3, round 3/3: void (FA-5004), unseen 0.500",
    ]


def test_void_rounds_are_told_in_one_line() -> None:
    results = made_results(rounds=34)
    assert void_rounds([results]) == "2 of 34 rounds were void and changed nothing: 2 with FA-5106."
    assert void_rounds([made_results(rounds=3)]) is None


def test_a_bar_on_a_terminal() -> None:
    console = Console(record=True, width=200, force_terminal=True)
    with RunView(console, 0) as view:
        view.update(Progress("training", 4, 3, 5, 10, 0.75, epsilon=1.5, seconds_left=3725.0))
        view._bar.refresh()
    shown = console.export_text()
    for part in ("seed 0, round 3/4", "62%", "unseen 0.750", "epsilon 1.50", "1:02:05 left"):
        assert part in shown
