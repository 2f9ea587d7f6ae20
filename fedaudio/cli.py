"""The command `fedaudio`."""

from __future__ import annotations

import json
import os
import sys
from enum import StrEnum
from typing import Annotated, NoReturn

import typer

import fedaudio
from common.errors import FedAudioError
from common.files import storage_error
from common.log import LOG_FORMAT, printable
from fedaudio import model, privacy
from fedaudio.demo.command import demo
from fl_client import cli as client
from fl_server import cli as server
from simulations import cli as simulate

app = typer.Typer(
    help="Devices learn one shared audio model without their audio leaving them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(server.app, name="server")
app.add_typer(client.app, name="client")
app.add_typer(simulate.app, name="simulate")
app.add_typer(model.app, name="model")
app.add_typer(privacy.app, name="privacy")
app.command()(demo)


class LogFormat(StrEnum):
    """How log lines look."""

    TEXT = "text"
    JSON = "json"


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    log_format: Annotated[
        LogFormat, typer.Option(help="How to log: text, or json, one object a line.")
    ] = LogFormat.TEXT,
) -> None:
    """Devices learn one shared audio model without their audio leaving them."""
    os.environ[LOG_FORMAT] = log_format.value
    if version:
        typer.echo(fedaudio.__version__)


def main() -> None:
    """Run the command; a failure a person can mend is two sentences and an exit status, never a traceback."""
    try:
        app()
    except FedAudioError as error:
        _fail(error)
    except OSError as error:
        # Files that no part of the program has foreseen to be in the way.
        _fail(storage_error(str(error.filename or "Something of this machine"), error))


def _fail(error: FedAudioError) -> NoReturn:
    if "--json" in sys.argv:
        document = {"error": error.code, "happened": error.happened, "remedy": error.remedy}
        typer.echo(json.dumps(document))
    else:
        # What happened may be in the words of a peer.
        typer.echo(f"{error.code}: {printable(error.happened)}\n{error.remedy}", err=True)
    sys.exit(error.status)
