"""`fedaudio server devices ...`"""

from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from common.errors import ConfigError, CoordinatorError
from common.log import printable
from fl_server.home import CoordinatorHome
from fl_server.options import Home, Json, PassphraseFile, existing, settings_of

if TYPE_CHECKING:
    from fl_server.registry import Registry

app = typer.Typer(help="Who may take part.", no_args_is_help=True)

Named = Annotated[str, typer.Argument(metavar="DEVICE", help="Id, the beginning of it, or name.")]

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_LONGEST = timedelta(days=30)


@app.command()
def token(
    home: Home = None,
    ttl: Annotated[str, typer.Option(help="How long it is good: 30s, 15m, 2h, 7d; 30d at most.")] = "15m",
    uses: Annotated[int, typer.Option(min=1, max=100_000, help="How many devices may use it.")] = 1,
    address: Annotated[
        str | None, typer.Option(help="host:port by which devices reach the coordinator.")
    ] = None,
    qr: Annotated[bool, typer.Option("--qr/--no-qr", help="Print a QR code too.")] = True,
    as_json: Json = False,
) -> None:
    """Invite a device: print the string that `fedaudio client enroll` takes. Whoever has it can enrol."""
    from datetime import UTC, datetime

    import segno

    from common.protocol.invitation import Invitation
    from fl_server.keyring import certified_names, load_trust
    from fl_server.tokens import make_token, token_digest, token_name

    place, lifetime = existing(home), parse_lifetime(ttl)
    registry = _registry(place)
    pin = load_trust(place)[2]
    reached = _address(place, registry) if address is None else address
    _check_address(reached, pin)
    if (host := reached.rpartition(":")[0].strip("[]")) not in certified_names(place):
        typer.echo(
            f"The coordinator's certificate is not valid for {host}: devices will refuse it.", err=True
        )
    expires = datetime.now(UTC) + lifetime
    made = make_token(registry, lifetime, uses)
    invitation, name = str(Invitation(reached, pin, made)), token_name(token_digest(made))
    if as_json:
        ends = expires.isoformat(timespec="seconds")
        typer.echo(json.dumps({"invitation": invitation, "token": name, "expires": ends}))
        return
    typer.echo(invitation)
    if qr:
        segno.make(invitation, error="l", micro=False).terminal(compact=True, border=2)
    many = "one device" if uses == 1 else f"{uses} devices"
    typer.echo(f"Good for {many} at {reached}, until {expires:%Y-%m-%d %H:%M:%S} UTC.", err=True)
    typer.echo("On the device: fedaudio client enroll - (it reads the string from standard input)", err=True)
    typer.echo(f"To take it back: fedaudio server devices withdraw {name}", err=True)


@app.command("tokens")
def list_tokens(home: Home = None, as_json: Json = False) -> None:
    """Invitations that can still be used."""
    from fl_server.registry import utc
    from fl_server.tokens import open_tokens, token_name

    entries: list[dict[str, str | int]] = [
        {
            "token": token_name(row.digest),
            "created": utc(row.created).isoformat(timespec="seconds"),
            "expires": utc(row.expires).isoformat(timespec="seconds"),
            "uses": row.uses,
        }
        for row in open_tokens(_registry(existing(home)))
    ]
    if as_json:
        typer.echo(json.dumps({"tokens": entries}))
        return
    table = Table("token", "created", "expires", "uses left")
    for entry in entries:
        table.add_row(*map(str, entry.values()))
    Console().print(table)


@app.command()
def withdraw(
    token: Annotated[str, typer.Argument(help="As `devices tokens` lists it; 4 digits or more.")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Take an invitation back. Devices that have enrolled with it stay."""
    from fl_server.tokens import token_name, withdraw_token

    name = token_name(withdraw_token(_registry(existing(home)), token).digest)
    typer.echo(
        json.dumps({"withdrawn": name}) if as_json else f"The invitation {name} is of no use any more."
    )


@app.command("list")
def list_devices(home: Home = None, as_json: Json = False) -> None:
    """All devices that were ever enrolled."""
    from fl_server.status import describe_devices

    devices = describe_devices(existing(home))
    if as_json:
        typer.echo(json.dumps({"devices": devices}))
        return
    table = Table("id", "name", "state", "enrolled", "certificate until", "rounds")
    for entry in devices:
        until = entry["expires"] or ""
        table.add_row(
            entry["id"][:12], entry["name"], entry["state"], entry["enrolled"], until, str(entry["rounds"])
        )
    Console().print(table)


@app.command()
def show(device: Named, home: Home = None, as_json: Json = False) -> None:
    """All that is known of one device."""
    from fl_server.status import describe_devices

    place = existing(home)
    wanted = _registry(place).device_named(device).id
    (entry,) = (entry for entry in describe_devices(place) if entry["id"] == wanted)
    if as_json:
        typer.echo(json.dumps(entry))
        return
    for key, value in entry.items():
        typer.echo(f"{key:<12} {'' if value is None else printable(str(value))}")


@app.command()
def approve(
    device: Named, home: Home = None, passphrase_file: PassphraseFile = None, as_json: Json = False
) -> None:
    """Let a device in that waits for it."""
    from common.security.keys import KeyGroup
    from fl_server import enrolment
    from fl_server.authority import DeviceAuthority
    from fl_server.keyring import unlock

    place = existing(home)
    registry = _registry(place)
    password = KeyGroup.FRONT.password(unlock(place, passphrase_file, ask=True))
    authority = DeviceAuthority.load(place, password)
    row = enrolment.approve(registry, authority, settings_of(place).devices, registry.device_named(device).id)
    _say(row.id, row.name, "active", as_json)


@app.command()
def revoke(
    device: Named,
    home: Home = None,
    reason: Annotated[str, typer.Option(help="Why; it is kept with the evidence.")] = "",
    as_json: Json = False,
) -> None:
    """Put a device out for good, from its next message on."""
    from fl_server import enrolment

    registry = _registry(existing(home))
    row = enrolment.revoke(registry, registry.device_named(device).id, printable(reason)[:500])
    _say(row.id, row.name, "revoked", as_json)


def parse_lifetime(text: str) -> timedelta:
    """A time as 30s, 15m, 2h or 7d.

    Raises:
        ConfigError: FA-6003.
    """
    match = re.fullmatch(r"([0-9]{1,7})([smhd])", text)
    lifetime = timedelta(**{_UNITS[match[2]]: int(match[1])}) if match else timedelta()
    if not timedelta() < lifetime <= _LONGEST:
        raise ConfigError(
            "FA-6003",
            f"'{text[:40]}' is no time from 1s to 30d.",
            "Write a number and s, m, h or d, such as 15m.",
        )
    return lifetime


def _registry(place: CoordinatorHome) -> Registry:
    from fl_server.registry import Registry

    return Registry(place.database)


def _check_address(address: str, pin: str) -> None:
    from common.protocol.invitation import Invitation

    try:
        Invitation.parse(str(Invitation.new(address, pin)))
    except ConfigError as error:
        raise ConfigError(
            "FA-6003", f"'{address[:80]}' is no host:port.", "Write it as coordinator.example:8650."
        ) from error


def _address(place: CoordinatorHome, registry: Registry) -> str:
    """Where devices reach the coordinator, by the first name of its TLS certificate."""
    from fl_server.keyring import certified_names
    from fl_server.status import is_open

    presence = registry.presence() if is_open(place) else None
    port = presence.port if presence else settings_of(place).port
    if port == 0:
        raise CoordinatorError(
            "FA-5056",
            "The port is drawn when the coordinator starts, and it is not running.",
            "Start it, set a port in server.toml, or give --address.",
        )
    name = certified_names(place)[0]
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


def _say(device: str, name: str, state: str, as_json: bool) -> None:
    result = {"id": device, "name": name, "state": state}
    typer.echo(json.dumps(result) if as_json else f"{printable(name)} ({device[:12]}) is {state}.")
