"""`fedaudio simulate robustness`"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from simulations.robustness import Watched
    from simulations.robustness_results import RobustnessCell, RobustnessResults

ATTACKS = "none,sign-flip,gaussian,zero,stale,label-flip,alie,ipm,backdoor,sybils"
RULES = (
    "mean,default,median,trimmed-mean,multi-krum,geometric-median,centred-clipping,"
    "trimmed-mean+mixing,trimmed-mean+mixing+clipping"
)


def robustness(
    scenario: Annotated[str, typer.Argument(help="Name of a shipped scenario, or a TOML file.")] = "poisoned",
    attacks: Annotated[
        str, typer.Option(help="With commas; NAME=STRENGTH for another strength than the usual.")
    ] = ATTACKS,
    rules: Annotated[
        str,
        typer.Option(help="With commas; default is the scenario's. +clipping and +mixing go before a rule."),
    ] = RULES,
    share: Annotated[float, typer.Option(min=0, max=0.99, help="Of the devices, those that attack.")] = 0.2,
    rounds: Annotated[int | None, typer.Option(min=1, help="Instead of the scenario's.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How often each is run, with seeds 0, 1, ...")] = 1,
    workers: Annotated[int, typer.Option(min=1, help="Processes that train.")] = 1,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE in place of what the scenario says.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for results; what is finished there is not run again.")
    ] = Path("robustness"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Run a scenario with attacks against aggregation rules, and print what each attack achieves."""
    from common.settings import split_list
    from simulations.load import load_scenario
    from simulations.robustness import measure

    overrides = [*(changes or ()), f"attack.share={share}"]
    if rounds is not None:
        overrides.append(f"number_of_rounds={rounds}")
    chosen = load_scenario(scenario, overrides)
    with _progress(chosen.number_of_rounds, shown=not as_json) as watch:
        results = measure(
            chosen,
            split_list(attacks),
            split_list(rules),
            range(seeds),
            out,
            workers=workers,
            watch=watch,
        )
    if as_json:
        typer.echo(results.model_dump_json())
        return
    from rich.console import Console

    Console().print(_table(results))
    for line in _legend(results):
        typer.echo(line)


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


def _table(results: RobustnessResults) -> Table:
    from rich.table import Table

    rules = list(dict.fromkeys(cell.rule for cell in results.cells))
    table = Table("attack", *rules)
    for attack in dict.fromkeys(cell.attack for cell in results.cells):
        table.add_row(attack, *(_text(results.cell(attack, rule)) for rule in rules))
    return table


def _text(cell: RobustnessCell | None) -> str:
    """Accuracy, points lost, and success of a backdoor."""
    if cell is None:
        return ""
    success = "" if cell.attack_success is None else f", {cell.attack_success:.1%} open"
    return f"{cell.accuracy:.1%} ({-cell.points_lost:+.1f}){success}"


def _legend(results: RobustnessResults) -> Iterator[str]:
    yield (
        f"{results.scenario}: accuracy on the unseen after {results.rounds} rounds in which "
        f"{results.share:.0%} of the devices attack, mean of {len(results.seeds)} seeds."
    )
    yield "In brackets: points against no attack with the plain mean."
    if any(cell.attack_success is not None for cell in results.cells):
        yield "Open: share of other clips that the trigger turns into the target."
