"""`fedaudio simulate ...`"""

from __future__ import annotations

import typer

from simulations.options import AsJson
from simulations.report_cli import report
from simulations.robustness_cli import robustness
from simulations.run_cli import run
from simulations.sweep_cli import sweep

app = typer.Typer(help="Many virtual devices on this machine.", no_args_is_help=True)
app.command()(run)
app.command()(sweep)
app.command()(robustness)
app.command()(report)


@app.callback()
def group() -> None:
    """Many virtual devices on this machine, with the code that is deployed."""


@app.command("list")
def list_scenarios(
    as_json: AsJson = False,
) -> None:
    """Show the scenarios that come with fedaudio."""
    import json

    from rich.console import Console
    from rich.table import Table

    from simulations.load import shipped_scenarios

    scenarios = shipped_scenarios()
    if as_json:
        typer.echo(json.dumps(scenarios))
        return
    table = Table("scenario", "what it is about")
    for name, about in scenarios.items():
        table.add_row(name, about)
    Console().print(table)
