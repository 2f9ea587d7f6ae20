"""Options that several commands of `fedaudio simulate` have, each named once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer


def complete(incomplete: str) -> list[str]:
    """Shipped scenarios that begin so, for the shell."""
    from simulations.load import shipped_scenarios

    return [name for name in shipped_scenarios() if name.startswith(incomplete)]


ScenarioName: TypeAlias = Annotated[
    str, typer.Argument(help="Name of a shipped scenario, or a TOML file.", autocompletion=complete)
]
Changes: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--set", help="KEY=VALUE in place of what the scenario says; as often as needed."),
]
Workers: TypeAlias = Annotated[
    int | None, typer.Option(min=1, help="Processes that train; one for each processor if not given.")
]
Backend: TypeAlias = Annotated[
    Literal["local", "ray", "flower"],
    typer.Option(help="Who trains: processes here, a Ray cluster, or Flower's own simulation."),
]
Cache: TypeAlias = Annotated[
    Path | None,
    typer.Option(help="Folder that keeps features from run to run; the user's own if not given."),
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
