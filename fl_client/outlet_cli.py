"""`fedaudio client outlet ...`"""

from __future__ import annotations

import json
import secrets

import typer

from common.files import write_atomic
from fl_client.options import Home, Json, existing

app = typer.Typer(help="How programs and other machines get to know what is heard.", no_args_is_help=True)


@app.callback()
def outlet() -> None:
    """How programs and other machines get to know what is heard."""


@app.command()
def token(home: Home = None, as_json: Json = False) -> None:
    """Make the token that callers must know, in place of the one before; it counts at once."""
    path = existing(home).token
    write_atomic(path, secrets.token_urlsafe(32).encode() + b"\n", mode=0o600)
    typer.echo(json.dumps({"file": str(path)}) if as_json else f"The token is in {path}.")
