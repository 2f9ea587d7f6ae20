"""`fedaudio simulate report`"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from simulations.options import AsJson


def report(
    folder: Annotated[Path, typer.Argument(help="What `simulate run` or `simulate sweep` wrote to.")],
    out: Annotated[
        Path | None, typer.Option(help="File to write; report.html in that folder if unset.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a page of HTML about a run, several seeds of one, or a sweep. It loads nothing from anywhere."""
    from common.files import write_atomic
    from simulations.report import render

    path = out or folder / "report.html"
    write_atomic(path, render(folder).encode())
    typer.echo(json.dumps({"report": str(path)}) if as_json else f"Wrote {path}.")
