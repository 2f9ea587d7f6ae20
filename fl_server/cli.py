"""`fedaudio server ...`"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from common.errors import CoordinatorError
from common.log import printable
from fl_server.home import CoordinatorHome

app = typer.Typer(help="The coordinator: runs rounds and releases models.", invoke_without_command=True)
models = typer.Typer(help="Released versions.", no_args_is_help=True)
app.add_typer(models, name="models")

Home = Annotated[Path | None, typer.Option("--home", help="Folder of the coordinator's state.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


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
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8650,
    names: Annotated[
        str, typer.Option(help="Names and addresses devices will use, separated by commas.")
    ] = "localhost,127.0.0.1",
) -> None:
    """Make a coordinator: server.toml and a certificate that devices pin."""
    from common.settings import parse_settings, split_list
    from fl_server.initialise import initialise
    from fl_server.settings import ServerSettings

    place = CoordinatorHome.find(home)
    document = {
        "host": host,
        "port": port,
        "task": {"labels": split_list(labels), "clip_seconds": clip_seconds},
        "rounds": {"min_devices": 2, "wait_seconds": 120},
        "recipe": {"epochs": 2},
    }
    initialise(place, parse_settings(ServerSettings, document, "the command line"), names=split_list(names))
    typer.echo(f"Made {place.config}. Devices need {place.certificate}.")
    typer.echo("Next: fedaudio server start")


@app.command()
def start(
    home: Home = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Train so many rounds at once.")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on, instead of the configured one.")
    ] = None,
) -> None:
    """Serve until stopped; with --rounds, begin to train as soon as enough devices are there."""
    from common.log import configure_logging
    from common.settings import load_settings
    from fl_server.coordinator import Coordinator
    from fl_server.settings import ServerSettings

    configure_logging()
    place = CoordinatorHome.find(home)
    settings = load_settings(ServerSettings, place.config)
    if port is not None:
        settings = settings.model_copy(update={"port": port})
    for number in (signal.SIGTERM, signal.SIGINT):
        # A round may take long; whatever it was doing, the folder holds all there is to go on from.
        signal.signal(number, lambda *_: sys.exit(0))
    Coordinator(place, settings).serve(threading.Event(), rounds)


@app.command()
def train(
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="How many rounds.")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Ask the running coordinator for rounds and follow them to the end."""
    from fl_server.registry import Registry

    place = _existing(home)
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

    report = describe(_existing(home))
    if as_json:
        typer.echo(json.dumps(report))
        return
    state = "running" if report["running"] else "not running"
    typer.echo(f"Coordinator {state}, {report['online']} devices online, version {report['version']}.")
    table = Table(
        "round", "state", "version", "devices", "failed", "seconds", "overhead", "loss", "why failed"
    )
    for row in report["rounds"][-10:]:
        why = "; ".join(f"{f['who']}: {f['code']} {f['reason']}" for f in row["failures"])
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


@models.command("list")
def list_models(home: Home = None, as_json: Json = False) -> None:
    """All released versions."""
    from fl_server.status import describe_models

    versions = describe_models(_existing(home))
    if as_json:
        typer.echo(json.dumps({"models": versions}, default=lambda value: value.model_dump()))
        return
    table = Table(
        "version", "parent", "created", "devices", "device acc.", "validation acc.", "epsilon", "weights"
    )
    for entry in versions:
        metrics, privacy = entry["metrics"], entry["privacy"]
        table.add_row(
            str(entry["version"]),
            "" if entry["parent"] is None else str(entry["parent"]),
            entry["created"],
            str(entry["participants"]),
            _number(metrics["device_accuracy"]),
            _number(metrics["validation_accuracy"]),
            _number(privacy.epsilon) if privacy else "",
            entry["weights"][:12],
        )
    Console().print(table)


@models.command("show")
def show_model(version: int, home: Home = None, as_json: Json = False) -> None:
    """One version's manifest, as JSON on several lines, or with --json on one."""
    from common.protocol.release import MANIFEST
    from fl_server.releases import release_folder

    path = release_folder(_existing(home).releases, version) / MANIFEST
    if not path.is_file():
        raise CoordinatorError(
            "FA-5007", f"There is no version {version}.", "See `fedaudio server models list`."
        )
    text = path.read_text()
    typer.echo(json.dumps(json.loads(text)) if as_json else text)


def _existing(home: Path | None) -> CoordinatorHome:
    from common.settings import load_settings
    from fl_server.settings import ServerSettings

    place = CoordinatorHome.find(home)
    load_settings(ServerSettings, place.config)
    return place


def _require_running(home: CoordinatorHome) -> None:
    from fl_server.status import is_running

    if not is_running(home):
        raise CoordinatorError(
            "FA-5009", "The coordinator is not running.", "Start it: fedaudio server start"
        )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
