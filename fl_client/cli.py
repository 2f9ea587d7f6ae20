"""`fedaudio client ...`"""

from __future__ import annotations

import json
import math
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
from fl_client import calibrate_cli, clips_cli, outlet_cli, privacy_cli, status_cli
from fl_client.home import DeviceHome
from fl_client.options import Home, Json, PassphraseFile, existing, unlock
from fl_client.settings import DeviceSettings

app = typer.Typer(
    help="A device: listens, learns from its own clips, keeps its model new.", no_args_is_help=True
)

keys = typer.Typer(help="The device's keys.", no_args_is_help=True)
policy = typer.Typer(help="What the device's owner agrees to.", no_args_is_help=True)
app.add_typer(keys, name="keys")
app.add_typer(policy, name="policy")
app.add_typer(privacy_cli.app, name="privacy")
app.command("calibrate")(calibrate_cli.calibrate)
app.command("feedback")(clips_cli.feedback)
app.command("status")(status_cli.status)
app.add_typer(clips_cli.app, name="clips")
app.add_typer(outlet_cli.app, name="outlet")

PROTECTIONS = {
    "passphrase": "The private keys are encrypted under a passphrase.",
    "file-mode": "The private keys are protected by file mode 0600 alone: who can read the disk has them.",
}

Source = Annotated[
    str | None, typer.Option(help="What to listen to: mic, stdin, file:PATH, dir:PATH or ws:ADDRESS:PORT.")
]
Insecure = Annotated[
    bool,
    typer.Option("--insecure-loopback", help="No TLS, nothing signed or sealed; 127.0.0.1 and ::1 only."),
]


@app.command()
def enroll(
    invitation: Annotated[
        str,
        typer.Argument(help="What `fedaudio server devices token` printed; - reads it from standard input."),
    ],
    home: Home = None,
    name: Annotated[
        str | None, typer.Option(help="Unique in the fleet; the host's name if not given.")
    ] = None,
    source: Source = None,
    passphrase_file: PassphraseFile = None,
    passphrase: Annotated[
        bool, typer.Option("--passphrase", help="Ask for a passphrase that the keys are encrypted under.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the operator's approval.")] = False,
    insecure_loopback: Insecure = False,
    as_json: Json = False,
) -> None:
    """Make this a device of a coordinator: keys made here, a certificate from there."""
    from common.security.keys import read_protection
    from common.security.passphrase import new_passphrase
    from fl_client.enrol import enrol

    _check_spelling(source)
    place = DeviceHome.find(home)
    own = re.sub(r"[^\w.-]", "-", platform.node())[:64] or "device"
    secret = new_passphrase(passphrase_file, "the device's keys", ask=passphrase)
    done = enrol(
        place,
        sys.stdin.readline() if invitation == "-" else invitation,
        name=name or own,
        source=source,
        passphrase=secret,
        wait_seconds=math.inf if wait else 0.0,
        insecure=insecure_loopback,
    )
    protection = read_protection(place.identity).by
    if as_json:
        typer.echo(json.dumps({"state": done.state, "device": done.device, "protection": protection}))
        return
    typer.echo(f"Made {place.config}; the device is {done.device}. What it agrees to is in {place.policy}.")
    typer.echo(PROTECTIONS[protection])
    if done.state == "pending":
        typer.echo("An operator of the coordinator has yet to approve it; `client start` asks until then.")
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

    place = existing(home)
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
def start(
    home: Home = None,
    source: Source = None,
    passphrase_file: PassphraseFile = None,
    insecure_loopback: Insecure = False,
) -> None:
    """Take part in rounds and listen, until stopped; for the tasks of other folders too, as [tasks] says."""
    from common.log import configure_logging
    from fl_client.connection import require_loopback
    from fl_client.device_tasks import task_homes, warn_of_unused
    from fl_client.supervisor import supervise

    place = existing(home)
    settings = load_settings(DeviceSettings, place.config)
    _check_spelling(source or settings.source)
    homes = task_homes(place, settings)
    if insecure_loopback:
        for folder in homes.values():
            require_loopback(load_settings(DeviceSettings, folder.config).server)
    passwords = {task: unlock(folder, passphrase_file) for task, folder in homes.items()}
    configure_logging()
    warn_of_unused(homes)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    supervise(
        homes,
        source or settings.source,
        stop,
        passwords=passwords,
        insecure=insecure_loopback,
        outlet=settings.outlet.wanted,
    )


@app.command()
def listen(
    source: Annotated[str, typer.Argument(help="mic, stdin, file:PATH, dir:PATH or ws:ADDRESS:PORT")] = "mic",
    home: Home = None,
    on_event: Annotated[
        str | None,
        typer.Option(help="Program with arguments, run for each event: its JSON on standard input."),
    ] = None,
    levels: Annotated[bool, typer.Option("--levels", help="Report how loud it is, too.")] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Draw what is made of file:PATH into this PNG file (matplotlib).")
    ] = None,
) -> None:
    """Listen with the newest model and print events as JSON lines."""
    if plot is not None:
        if on_event is not None or levels:
            raise typer.BadParameter("--plot only draws: it goes with neither --on-event nor --levels")
        from fl_client.plot import plot_recording

        place = existing(home)
        owner = load_settings(DeviceSettings, place.config).listen
        events = plot_recording(place, owner, source, plot)
        typer.echo(f"Wrote {plot}: {len(events)} events.")
        return
    # In this process's place, for a listener carries nothing that it does not need.
    command = [sys.executable, "-m", "fl_client.listen", "--home", str(existing(home).root)]
    command += ["--source", source, "--no-status", *["--levels"] * levels]
    if on_event is not None:
        from fl_client.outlet.foreground import listen_with_hook, split_command

        raise typer.Exit(listen_with_hook(command, split_command(on_event)))
    os.execv(sys.executable, command)  # noqa: S606


@keys.command("rotate")
def rotate(
    home: Home = None,
    passphrase_file: PassphraseFile = None,
    insecure_loopback: Insecure = False,
    as_json: Json = False,
) -> None:
    """Replace the device's keys. A running link takes them over; the device keeps its id."""
    from fl_client.connection import make_client
    from fl_client.identity import read_trust
    from fl_client.renewal import renew

    place = existing(home)
    settings = load_settings(DeviceSettings, place.config)
    password = unlock(place, passphrase_file)
    trust = read_trust(place, settings.coordinator)
    with make_client(settings, trust, insecure=insecure_loopback) as client:
        renew(place, password, client, rotate=True)
    _show_keys(place, as_json)


@keys.command("show")
def show_keys(home: Home = None, as_json: Json = False) -> None:
    """Say which keys the device has, and how they are protected. Secrets stay secret."""
    _show_keys(existing(home), as_json)


@policy.command("show")
def show_policy(home: Home = None, as_json: Json = False) -> None:
    """Say what the device's owner agrees to; `client privacy status` says what was spent of it."""
    from fl_client.policy import load_policy

    rules = load_policy(existing(home).policy).model_dump(mode="json")
    if as_json:
        typer.echo(json.dumps({"policy": rules}))
        return
    for name, value in rules.items():
        typer.echo(f"{name}: {'-' if value is None or value == [] else value}")


@policy.command("check")
def check_policy(home: Home = None, as_json: Json = False) -> None:
    """Say which rules would have the device refuse a round at this moment."""
    from fl_client.conditions import Conditions
    from fl_client.ledger import open_ledger
    from fl_client.policy import load_policy

    place = existing(home)
    rules, now = load_policy(place.policy), Conditions.now()
    with open_ledger(place) as ledger:
        objections = list(rules.objections(now, ledger.account()))
    untold = rules.untold(now)
    if as_json:
        refusing = [{"code": error.code, "reason": error.happened} for error in objections]
        typer.echo(json.dumps({"refusing": refusing, "untold": untold}))
        return
    for error in objections:
        typer.echo(f"{error.code}: {error.happened} {error.remedy}")
    if untold:
        typer.echo(f"This platform does not tell what these rules are about: {', '.join(untold)}.")
    if not objections:
        typer.echo("Nothing speaks against a round now.")


def _check_spelling(source: str | None) -> None:
    """Return if there can be such a source; else the listener would be the first to say so."""
    if source is not None:
        from fl_client.listen.sources import open_source

        open_source(source)  # opens nothing before it is entered


def _show_keys(place: DeviceHome, as_json: bool) -> None:
    from common.security.keys import read_protection
    from common.security.statement import key_id
    from fl_client.identity import read_certificate

    certificate, protection = read_certificate(place), read_protection(place.identity).by
    facts = {
        "device": certificate.device,
        "name": certificate.name,
        "identity_key": key_id(certificate.identity).hex(),
        "node_key": certificate.node[:16],
        "certificate": certificate.serial,
        "begins": certificate.begins.isoformat(timespec="minutes"),
        "renewed_at": certificate.renew_at.isoformat(timespec="minutes"),
        "ends": certificate.ends.isoformat(timespec="minutes"),
        "protection": protection,
    }
    if as_json:
        typer.echo(json.dumps(facts))
        return
    for name, value in facts.items():
        typer.echo(f"{name}: {value}")
    typer.echo(PROTECTIONS[protection])
