"""`fedaudio simulate sweep`"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table
from rich.text import Text

from simulations.options import Backend, Cache, Changes, ScenarioName, Workers
from simulations.run_cli import INTERRUPTED

if TYPE_CHECKING:
    from simulations.sweep import SweepProgress, Watch
    from simulations.sweep_results import SweepResults


def sweep(
    scenario: ScenarioName,
    grid: Annotated[list[str], typer.Option("--grid", help="KEY=V1,V2,...; for each key once.")],
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds each cell is run with.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="The first of them.")] = 0,
    workers: Workers = None,
    backend: Backend = "local",
    out: Annotated[
        Path | None, typer.Option(help="Folder for results; runs/sweep-SCENARIO if not given.")
    ] = None,
    changes: Changes = None,
    cache: Cache = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print sweep.json instead of a table.")] = False,
) -> None:
    """Run all combinations of values of some settings; the same command goes on with what was stopped."""
    from simulations.sweep import parse_grid, plan_sweep
    from simulations.sweep import sweep as run_sweep

    cells = plan_sweep(scenario, parse_grid(grid), changes or ())
    folder = out or Path("runs") / f"sweep-{cells[0].scenario.name}"
    with _shown() as watch:
        found = run_sweep(
            cells,
            range(seed, seed + seeds),
            folder,
            workers=workers or len(os.sched_getaffinity(0)),
            backend=backend,
            cache=cache,
            watch=watch,
        )
    if as_json:
        typer.echo(found.model_dump_json())
    else:
        _print(found, folder)
    if found.done < found.runs:
        raise typer.Exit(INTERRUPTED)


@contextmanager
def _shown() -> Iterator[Watch]:
    """A bar for the sweep and one for the run, while anybody looks."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        whole, one = bars.add_task("runs"), bars.add_task("")

        def watch(at: SweepProgress) -> None:
            words = ", ".join(f"{key} {value}" for key, value in at.values.items())
            bars.update(whole, completed=at.done, total=at.runs)
            bars.update(
                one, completed=at.run.round, total=at.run.rounds, description=f"{words}: {at.run.doing}"
            )

        yield watch


def _print(found: SweepResults, folder: Path) -> None:
    from simulations.report import FIGURES, row_of

    columns = (Column(name, overflow="fold") for name in (*found.keys, *FIGURES))
    table = Table(*columns, box=None, padding=(0, 1))
    for cell in found.cells:
        table.add_row(*map(Text, row_of(cell)))
    Console().print(table)
    for note in found.notes:
        typer.echo(note)
    if found.done < found.runs:
        typer.echo(f"Stopped: {found.done} of {found.runs} runs are done. The same command goes on.")
    typer.echo(f"See {folder}/sweep.csv, or: fedaudio simulate report {folder}")
