"""`fedaudio simulate run`"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from simulations.options import AsJson, Backend, Cache, Changes, ScenarioName, Workers

INTERRUPTED = 130
"""Exit status after Ctrl-C, as of any command that a shell runs."""


def run(
    scenario: ScenarioName,
    changes: Changes = None,
    seed: Annotated[int, typer.Option(min=0, help="Of all that is drawn, but for privacy noise.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="How many runs, each with the next seed.")] = 1,
    workers: Workers = None,
    out: Annotated[Path | None, typer.Option(help="Folder for results; runs/SCENARIO if not given.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what is in that folder.")] = False,
    backend: Backend = "local",
    cache: Cache = None,
    as_json: AsJson = False,
) -> None:
    """Run a scenario. Each seed's results go to a folder of its own, --out/seed-N.

    Ctrl-C ends it with the results of the rounds that are over; --resume goes on from there.
    """
    import json

    from rich.console import Console

    from simulations.engine import simulate
    from simulations.load import load_scenario
    from simulations.results import SimulationResults
    from simulations.summary import print_summary, summary
    from simulations.view import RunView, void_rounds

    chosen = load_scenario(scenario, changes or ())
    folder = out or Path("runs") / chosen.name
    console = Console(stderr=as_json)
    results: list[SimulationResults] = []
    interrupted = False
    for number in range(seed, seed + seeds):
        try:
            with RunView(console, number) as view:
                result = simulate(
                    chosen,
                    number,
                    folder / f"seed-{number}",
                    workers=workers or len(os.sched_getaffinity(0)),
                    resume=resume,
                    backend=backend,
                    cache=cache,
                    watch=view.update,
                )
            results.append(result)
            interrupted = result.interrupted
        except KeyboardInterrupt:
            begun = view.doing not in {"preparing", "learning"}
            early = "--resume goes on with it" if begun else "nothing of it was computed yet"
            console.print(f"Seed {number} was stopped: {early}.", highlight=False, soft_wrap=True)
            interrupted = True
        if interrupted:
            break
    if not results:
        if as_json:
            typer.echo(json.dumps({"scenario": chosen.name, "seeds": [], "mean": None, "spread": None}))
    elif as_json:
        typer.echo(summary(results, folder).model_dump_json())
    else:
        print_summary(console, summary(results, folder))
    if void := void_rounds(results):
        console.print(void, highlight=False, soft_wrap=True)
    if interrupted:
        raise typer.Exit(INTERRUPTED)
