"""`fedaudio simulate robustness`"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from common.settings import finite, split_list
from simulations.options import AsJson, Backend, Cache, Changes, ScenarioName, Workers
from simulations.run_cli import INTERRUPTED

if TYPE_CHECKING:
    from rich.table import Table

    from simulations.robustness import Watched
    from simulations.robustness_results import RobustnessCell, RobustnessResults

ATTACKS = "none,sign-flip,gaussian,zero,stale,label-flip,alie,ipm,backdoor,sybils"


def robustness(
    scenario: ScenarioName = "poisoned",
    attacks: Annotated[
        str, typer.Option(help="With commas; NAME=STRENGTH for another strength than the usual.")
    ] = ATTACKS,
    rules: Annotated[
        str | None,
        typer.Option(
            help="With commas; all that can work if not given; `default` is the scenario's. +clipping and "
            "+mixing may follow another."
        ),
    ] = None,
    share: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=0.99,
            callback=finite,
            help="Of the devices, those that attack; the scenario's if not given.",
        ),
    ] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Instead of the scenario's.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The first of the seeds.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="How often each is run, each with the next seed.")] = 1,
    workers: Workers = None,
    backend: Backend = "local",
    changes: Changes = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for results, in which what is finished is not run again; runs/robustness-SCENARIO "
            "if not given."
        ),
    ] = None,
    cache: Cache = None,
    as_json: AsJson = False,
) -> None:
    """Run a scenario with attacks against aggregation rules, and print what each attack achieves.

    The same command goes on with what was stopped.
    """
    from simulations.load import load_scenario
    from simulations.robustness import measure, usual_rules

    overrides = list(changes or ())
    if share is not None:
        overrides.append(f"attack.share={share}")
    if rounds is not None:
        overrides.append(f"number_of_rounds={rounds}")
    chosen = load_scenario(scenario, overrides)
    with _progress(chosen.number_of_rounds, shown=not as_json) as watch:
        results = measure(
            chosen,
            split_list(attacks),
            usual_rules(chosen) if rules is None else split_list(rules),
            range(seed, seed + seeds),
            out or Path("runs") / f"robustness-{chosen.name}",
            workers=workers or len(os.sched_getaffinity(0)),
            backend=backend,
            cache=cache,
            watch=watch,
        )
    if as_json:
        typer.echo(results.model_dump_json())
    else:
        _print(results)
    if not results.finished:
        raise typer.Exit(INTERRUPTED)


@contextmanager
def _progress(rounds: int, shown: bool) -> Iterator[Callable[[Watched], None]]:
    """A bar over all rounds of all simulations."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), disable=not shown, transient=True) as bar:
        task = bar.add_task("preparing", total=None)

        def watch(watched: Watched) -> None:
            attack, rule = watched.pair
            bar.update(
                task,
                description=f"{attack} x {rule}, seed {watched.seed}: {watched.progress.accuracy:.1%}",
                total=watched.runs * rounds,
                completed=watched.finished * rounds + watched.progress.round,
            )

        yield watch


def _print(results: RobustnessResults) -> None:
    from rich.console import Console

    Console().print(_table(results))
    for line in _legend(results):
        typer.echo(line)


def _table(results: RobustnessResults) -> Table:
    from rich.table import Table

    rules = list(dict.fromkeys(cell.rule for cell in results.cells))
    table = Table("attack", *rules)
    for attack in dict.fromkeys(cell.attack for cell in results.cells):
        table.add_row(attack, *(_text(results.cell(attack, rule)) for rule in rules))
    return table


def _text(cell: RobustnessCell | None) -> str:
    """Accuracy, points lost, success of a backdoor, and void rounds if there are any."""
    if cell is None:
        return ""
    success = "" if cell.attack_success is None else f", {cell.attack_success:.1%} open"
    void = f", {cell.void:g} void" if cell.void else ""
    return f"{cell.accuracy:.1%} ({-cell.points_lost:+.1f}){success}{void}"


def _legend(results: RobustnessResults) -> Iterator[str]:
    from simulations.figures import SEEDED

    yield (
        f"{results.scenario}: accuracy on the unseen after {results.rounds} rounds in which "
        f"{results.share:.0%} of the devices attack, mean of {len(results.seeds)} seeds."
    )
    yield "In brackets: points against no attack with the plain mean."
    if any(cell.attack_success is not None for cell in results.cells):
        yield "Open: share of other clips that are called the target with the trigger."
    if any(cell.void for cell in results.cells):
        yield "Void: rounds that made no version, most often because the release gate stopped it."
    if any(run.noise == "seed" for cell in results.cells for run in cell.runs):
        yield SEEDED
    if not results.finished:
        yield "Stopped before the end. The same command goes on."
