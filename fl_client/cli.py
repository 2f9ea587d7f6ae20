"""`fedaudio client ...`"""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from common.settings import load_settings, split_list
from fl_client.home import DeviceHome
from fl_client.settings import DeviceSettings

app = typer.Typer(
    help="A device: listens, learns from its own clips, keeps its model new.", no_args_is_help=True
)

Home = Annotated[Path | None, typer.Option("--home", help="Folder of the device's state.")]
Source = Annotated[
    str | None, typer.Option(help="What to listen to: mic, stdin, or file:PATH[,loop][,fast].")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command()
def init(
    server: Annotated[str, typer.Option(help="host:port of the coordinator.")],
    ca: Annotated[Path, typer.Option(help="The coordinator's certificate (its keys/tls.crt).")],
    home: Home = None,
    name: Annotated[
        str | None, typer.Option(help="Unique in the fleet; the host's name if not given.")
    ] = None,
    source: Source = None,
) -> None:
    """Make a device: device.toml, and the certificate it trusts."""
    from fl_client.initialise import initialise

    place = DeviceHome.find(home)
    own = re.sub(r"[^\w.-]", "-", platform.node()) or "device"
    initialise(place, server=server, ca=ca, name=name or own, source=source)
    typer.echo(f"Made {place.config}.")
    typer.echo("Next: fedaudio client import FOLDER; fedaudio client start")


@app.command("import")
def import_folder(
    source: Annotated[Path, typer.Argument(help="Labelled clips in any known layout.")],
    home: Home = None,
    speakers: Annotated[str, typer.Option(help="Only these speakers, separated by commas.")] = "",
    as_json: Json = False,
) -> None:
    """Copy labelled clips to this device: resampled, without duplicates, damaged files named and left out."""
    from common.data.clips import Clips
    from common.data.importing import import_background, import_clips

    place = _existing(home)
    clips = Clips.load(source)
    if speakers:
        wanted = set(split_list(speakers))
        clips = clips.filter(lambda clip: clip.speaker in wanted)
    columns = (TextColumn("importing"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("importing", total=len(clips))
        report = import_clips(
            clips, place.clips, progress=lambda done, total: progress.update(bar, completed=done, total=total)
        )
    background = import_background(source, place.clips)
    if as_json:
        skipped = [{"file": file, "reason": reason} for file, reason in report.skipped]
        result = {"imported": report.imported, "duplicates": report.duplicates, "skipped": skipped}
        result["background"] = background
        typer.echo(json.dumps(result))
        return
    for file, reason in report.skipped:
        typer.echo(f"left out: {file}: {reason}", err=True)
    typer.echo(
        f"{report.imported} imported, {report.duplicates} there already, {len(report.skipped)} left out; "
        f"{background} recordings of background noise."
    )


@app.command()
def start(home: Home = None, source: Source = None) -> None:
    """Take part in rounds and listen, until stopped."""
    from common.log import configure_logging
    from fl_client.supervisor import supervise

    place = DeviceHome.find(home)
    settings = load_settings(DeviceSettings, place.config)
    configure_logging()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    supervise(place, source or settings.source, stop)


@app.command()
def status(home: Home = None, as_json: Json = False) -> None:
    """Say whether the device is linked, what it hears with, and what it has sent."""
    from fl_client.status import describe

    report = describe(_existing(home))
    if as_json:
        typer.echo(json.dumps(report))
        return
    link, listener = report["link"], report["listener"]
    typer.echo(f"Device {report['name']}, version {report['version']}, {report['clips']} clips.")
    if link is None:
        typer.echo("The link is not running.")
    else:
        state = "linked" if link["linked"] else "not linked"
        traffic = f"{link['bytes_up']} bytes up, {link['bytes_down']} bytes down"
        typer.echo(f"The link is {state}: {link['orders']} orders answered, {traffic}.")
    typer.echo(
        "The listener is not running." if listener is None else f"The listener: {json.dumps(listener)}"
    )


@app.command()
def listen(
    source: Annotated[str, typer.Argument(help="mic, stdin, or file:PATH[,loop][,fast]")] = "mic",
    home: Home = None,
) -> None:
    """Listen with the newest model and print events as JSON lines."""
    # In this process's place, for a listener carries nothing that it does not need.
    command = [sys.executable, "-m", "fl_client.listen", "--home", str(_existing(home).root)]
    os.execv(sys.executable, [*command, "--source", source, "--no-status"])  # noqa: S606


def _existing(home: Path | None) -> DeviceHome:
    place = DeviceHome.find(home)
    load_settings(DeviceSettings, place.config)
    return place
