"""`fedaudio server ...`"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from common.errors import CoordinatorError
from common.log import printable
from fl_server import devices_cli, keys_cli, log_cli, models_cli
from fl_server.home import CoordinatorHome
from fl_server.options import Home, Json, PassphraseFile, existing, settings_of

if TYPE_CHECKING:
    from common.protocol.tensors import Weights
    from common.task import Task

app = typer.Typer(help="The coordinator: runs rounds and releases models.", invoke_without_command=True)
for _name, _commands in (
    ("models", models_cli),
    ("devices", devices_cli),
    ("keys", keys_cli),
    ("log", log_cli),
):
    app.add_typer(_commands.app, name=_name)


@app.callback()
def default(context: typer.Context) -> None:
    """The coordinator; without a subcommand, `start`."""
    if context.invoked_subcommand is None:
        start()


@app.command()
def init(
    labels: Annotated[str, typer.Option(help="What the model tells apart, separated by commas.")],
    home: Home = None,
    clip_seconds: Annotated[float, typer.Option(help="Length of sound one decision is about.")] = 1.0,
    architecture: Annotated[
        str | None, typer.Option(help="Of the model; tc-stream if not given, with --dp tc-window.")
    ] = None,
    dp: Annotated[
        bool,
        typer.Option(
            "--dp/--no-dp",
            help="Train under differential privacy; as server.toml then is, at an epsilon of 8 in 20 rounds.",
        ),
    ] = False,
    warm_start: Annotated[
        list[str] | None,
        typer.Option(
            help="What the first version has learned from: a release or safetensors file; or clips that are "
            "nobody's secret, once for each collection, of which 'babble' is synthetic, and the default with "
            "--dp."
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8650,
    names: Annotated[
        str, typer.Option(help="Names and addresses devices will use, separated by commas.")
    ] = "localhost,127.0.0.1",
    passphrase_file: Annotated[
        Path | None, typer.Option(help="File with a passphrase that the private keys are encrypted under.")
    ] = None,
    passphrase: Annotated[bool, typer.Option("--passphrase", help="Ask for that passphrase.")] = False,
    as_json: Json = False,
) -> None:
    """Make a coordinator: server.toml, its keys, and the root of trust that devices pin."""
    from common.models.registry import architecture_named
    from common.protocol.plan import Privacy
    from common.security.passphrase import new_passphrase
    from common.settings import parse_settings, split_list
    from common.task import nothing_of
    from fl_server.initialise import initialise
    from fl_server.settings import ARCHITECTURE, BABBLE, PRIVATE_ARCHITECTURE, ServerSettings

    place = CoordinatorHome.find(home)
    chosen = architecture or (PRIVATE_ARCHITECTURE if dp else ARCHITECTURE)
    architecture_named(chosen)
    sources = warm_start or ([BABBLE] if dp else [])
    document: dict[str, object] = {
        "host": host,
        "port": port,
        "task": {"labels": split_list(labels), "clip_seconds": clip_seconds, "architecture": chosen},
        "rounds": {"min_devices": 2, "wait_seconds": 120},
    }
    if dp:
        document["privacy"] = Privacy().model_dump()
    elif nothing_of(split_list(labels)):
        document["recipe"] = {"negatives": 1}
    settings = parse_settings(ServerSettings, document, "the command line")
    secret = new_passphrase(passphrase_file, "the coordinator's keys", ask=passphrase)
    coordinator = initialise(
        place,
        settings,
        names=split_list(names),
        passphrase=secret,
        make_body=partial(_find_body, sources, settings.task) if sources else None,
    )
    protection = "file-mode" if secret is None else "passphrase"
    if as_json:
        typer.echo(json.dumps({"coordinator": coordinator, "protection": protection}))
        return
    typer.echo(f"Made {place.config} and {place.keys}. The coordinator is {coordinator}.")
    typer.echo(keys_cli.PROTECTIONS[protection])
    typer.echo(
        f"Keep a copy of {place.keys} apart; root.key is needed only to rotate keys, and can be kept away."
    )
    typer.echo("Next: fedaudio server start; fedaudio server devices token")


@app.command()
def start(
    home: Home = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Train so many rounds at once.")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on, instead of the configured one.")
    ] = None,
    passphrase_file: PassphraseFile = None,
    insecure_loopback: Annotated[
        bool,
        typer.Option(
            "--insecure-loopback", help="No TLS, nothing signed or sealed; on 127.0.0.1 or ::1 only."
        ),
    ] = False,
) -> None:
    """Serve until stopped; with --rounds, begin to train as soon as enough devices are there."""
    from common.log import configure_logging
    from fl_server.coordinator import Coordinator
    from fl_server.keyring import unlock

    configure_logging()
    place = CoordinatorHome.find(home)
    settings = settings_of(place)
    if port is not None:
        settings = settings.model_copy(update={"port": port})
    password = unlock(place, passphrase_file, ask=True)
    for number in (signal.SIGTERM, signal.SIGINT):
        # A round may take long; whatever it was doing, the folder holds all there is to go on from.
        signal.signal(number, lambda *_: sys.exit(0))
    Coordinator(place, settings, password, insecure=insecure_loopback).serve(threading.Event(), rounds)


@app.command()
def train(
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="How many rounds.")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Ask the running coordinator for rounds and follow them to the end."""
    from fl_server.registry import Registry

    place = existing(home)
    registry = Registry(place.database)
    _require_running(place)
    order = registry.place_order(rounds)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("training", total=rounds)
        while (order := registry.order(order.id)).state == "open":
            _require_running(place)
            progress.update(bar, completed=order.done)
            time.sleep(0.3)
    if order.state == "failed":
        raise CoordinatorError(order.code or "FA-5004", order.happened or "", order.remedy or "")
    newest = registry.model()
    result = {"rounds": order.done, "version": newest.version if newest else None}
    typer.echo(json.dumps(result) if as_json else f"{order.done} rounds done; version {result['version']}.")


@app.command()
def status(home: Home = None, as_json: Json = False) -> None:
    """Say whether the coordinator runs, who is there, and how the last rounds went."""
    from fl_server.status import describe

    report = describe(existing(home))
    if as_json:
        typer.echo(json.dumps(report))
        return
    state = "running" if report["running"] else "not running"
    typer.echo(f"Coordinator {state}, {report['online']} devices online, version {report['version']}.")
    table = Table(
        "round", "state", "version", "devices", "failed", "seconds", "overhead", "loss", "why failed"
    )
    for row in report["rounds"][-10:]:
        void = [f"{row['code']} {row['happened'] or ''}"] if row["code"] else []
        why = "; ".join(void + [f"{f['name']}: {f['code']} {f['reason']}" for f in row["failures"]])
        loss = "" if row["loss"] is None else f"{row['loss']:.3f}"
        numbers = (
            row["participants"],
            row["failed"],
            f"{row['seconds']:.1f}",
            f"{row['overhead_seconds']:.2f}",
        )
        # Devices write the reasons: Text knows no markup, and printable text moves no cursor.
        reasons = Text(printable(why))
        table.add_row(str(row["round"]), row["state"], str(row["version"]), *map(str, numbers), loss, reasons)
    Console().print(table)


def _find_body(sources: list[str], task: Task) -> Weights:
    from fl_server.warm_start import find_shared_body

    with Console(stderr=True).status("Learning from other clips. This takes minutes."):
        return find_shared_body(sources, task)


def _require_running(home: CoordinatorHome) -> None:
    from fl_server.status import is_running

    if not is_running(home):
        raise CoordinatorError(
            "FA-5009", "The coordinator is not running.", "Start it: fedaudio server start"
        )
