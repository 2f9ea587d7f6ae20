"""`fedaudio server keys ...`"""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from common.errors import ConfigError
from fl_server.options import Home, Json, PassphraseFile, existing, settings_of

app = typer.Typer(help="The coordinator's keys.", no_args_is_help=True)


class KeyName(StrEnum):
    """Keys that can be replaced; the root cannot, for devices pin it."""

    TLS = "tls"
    DEVICE_CA = "device-ca"
    PLAN = "plan"
    ENVELOPE = "envelope"
    RELEASE = "release"


@app.command()
def show(home: Home = None, as_json: Json = False) -> None:
    """Which keys are here, how they are protected, and what devices are told of them."""
    from fl_server.key_report import describe_keys

    report = describe_keys(existing(home))
    if as_json:
        typer.echo(json.dumps(report))
        return
    typer.echo(f"Coordinator {report['coordinator']}")
    typer.echo(
        f"Trust statement {report['serial']}, made {report['created']}, good until {report['expires']}."
    )
    typer.echo(PROTECTIONS[report["protection"]])
    table = Table("key", "here", "id", "expires")
    for key in report["keys"]:
        table.add_row(key["name"], "yes" if key["here"] else "no", key["id"][:16], key["expires"] or "")
    Console().print(table)


@app.command()
def rotate(
    names: Annotated[
        list[KeyName] | None, typer.Argument(help="Which; all that are on this machine if none is named.")
    ] = None,
    home: Home = None,
    new_release_key: Annotated[
        bool, typer.Option("--new-release-key", help="Make it here, though the one in use is elsewhere.")
    ] = False,
    compromised: Annotated[
        bool,
        typer.Option(
            "--compromised",
            help="The release key was stolen: trust the new one alone, and sign anew what devices are given.",
        ),
    ] = False,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Replace keys, and tell devices by a new trust statement. Needs the root key."""
    from fl_server import rotation
    from fl_server.keyring import unlock
    from fl_server.registry import Registry
    from fl_server.status import is_running

    place = existing(home)
    rules = settings_of(place).devices
    there = [name for name in KeyName if (place.keys / f"{name}.key").exists()]
    wanted = [str(name) for name in dict.fromkeys(names or there)]
    if compromised and KeyName.RELEASE not in wanted:
        raise ConfigError(
            "FA-6003", "--compromised is about the release key.", "Run: keys rotate release --compromised"
        )
    password = unlock(place, passphrase_file, ask=True)
    trust = rotation.rotate(
        place,
        Registry(place.database),
        rules,
        password,
        wanted,
        new_release_key=new_release_key,
        compromised=compromised,
    )
    running = is_running(place)
    if as_json:
        typer.echo(json.dumps({"rotated": wanted, "serial": trust.serial, "running": running}))
        return
    typer.echo(f"Replaced {', '.join(wanted)}; the trust statement has serial {trust.serial}.")
    if running:
        typer.echo("The running coordinator takes them up before its next round, and devices follow.")


PROTECTIONS = {
    "passphrase": "The private keys are encrypted under a passphrase.",
    "file-mode": "The private keys are NOT encrypted: only the mode of their files (0600) protects them.",
}
"""How keys are protected at rest, in words."""
