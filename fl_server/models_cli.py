"""`fedaudio server models ...`"""

from __future__ import annotations

import json
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from common.settings import finite
from fl_server.home import CoordinatorHome
from fl_server.options import Home, Json, PassphraseFile, existing, settings_of

if TYPE_CHECKING:
    from fl_server.registry import Model, Registry

app = typer.Typer(help="Released versions: see them, sign them, give them to devices.", no_args_is_help=True)


@app.command("list")
def list_models(home: Home = None, as_json: Json = False) -> None:
    """All released versions."""
    _, registry = _open(home)
    rows = registry.models()
    versions = [_describe(row) for row in rows]
    if as_json:
        typer.echo(json.dumps({"models": versions}))
        return
    created, columns = Column("created", no_wrap=True), ("devices", "device acc.", "own acc.", "epsilon")
    table = Table("version", created, *columns, "signed", "rollout", box=None, padding=(0, 1))
    for row, entry in zip(rows, versions, strict=True):
        metrics, privacy = entry["metrics"], entry["privacy"]
        table.add_row(
            f"{row.version}" if row.restores is None else f"{row.version} (= {row.restores})",
            f"{row.created:%Y-%m-%d %H:%M}",
            str(row.participants),
            _number(metrics["device_accuracy"]),
            _number(metrics["validation_accuracy"]),
            _number(privacy["epsilon"]) if privacy else "",
            "yes" if row.signed else "no",
            f"{row.rollout:g} %",
        )
    Console().print(table)


@app.command("show")
def show_model(version: int, home: Home = None, as_json: Json = False) -> None:
    """One version's manifest, as JSON on several lines, or with --json on one."""
    from common.protocol.release import MANIFEST
    from fl_server.releases import release_folder
    from fl_server.rollout import no_version

    place, _ = _open(home)
    path = release_folder(place.releases, version) / MANIFEST
    if not path.is_file():
        raise no_version(version)
    typer.echo(json.dumps(json.loads(path.read_bytes()), indent=None if as_json else 1))


@app.command()
def sign(
    manifest: Annotated[Path, typer.Argument(help="manifest.json of the version.")],
    key: Annotated[
        Path, typer.Option(help="release.key; with a passphrase, protection.json lies beside it.")
    ],
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Sign a version on the machine that has the release key; no coordinator is needed there."""
    from fl_server.signing import sign_offline

    signed, path = sign_offline(manifest, key, passphrase_file)
    if as_json:
        typer.echo(json.dumps({"version": signed.version, "weights": signed.weights, "signature": str(path)}))
        return
    typer.echo(f"Signed version {signed.version} of the coordinator {signed.coordinator[:16]}...: {path}")
    typer.echo(f"Next: fedaudio server models promote {signed.version} --signature {path.name}")


@app.command()
def promote(
    version: int,
    home: Home = None,
    signature: Annotated[
        Path | None, typer.Option(help="manifest.sig, of a version signed elsewhere.")
    ] = None,
    percent: Annotated[
        float | None,
        typer.Option(
            min=0.01, max=100, callback=finite, help="Share of the devices; else the next of 1, 10, 100."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Give a version to more devices. A signature from another machine is checked first."""
    from common.protocol.signed_release import read_part
    from common.security.statement import SIGNATURE_BYTES
    from fl_server import rollout
    from fl_server.keyring import load_trust

    place, registry = _open(home)
    trust, _, _ = load_trust(place)
    given = read_part(signature, SIGNATURE_BYTES) if signature else None
    row = rollout.promote(place, registry, trust, version, signature=given, percent=percent)
    if as_json:
        typer.echo(json.dumps({"version": row.version, "percent": row.rollout}))
    else:
        typer.echo(f"Version {row.version} is given to {row.rollout:g} % of the devices.")


@app.command()
def rollback(
    home: Home = None,
    to: Annotated[
        int | None,
        typer.Option(min=0, help="Version to go back to, or the newest for new dates; else the one before."),
    ] = None,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Release the weights of an earlier version, or the newest again, as a new version for all devices."""
    from fl_server.keyring import ServerKeys, unlock
    from fl_server.versions import Versions

    place, registry = _open(home)
    keys = ServerKeys.load(place, unlock(place, passphrase_file, ask=True))
    row = Versions(place, settings_of(place), registry, keys).rollback(to)
    if as_json:
        typer.echo(json.dumps({"version": row.version, "restores": row.restores, "signed": row.signed}))
        return
    typer.echo(f"Version {row.version} has the weights of version {row.restores}.")
    if not row.signed:
        typer.echo(f"It waits for its signature; then: ... models promote {row.version} --percent 100")


def _describe(row: Model) -> dict[str, Any]:
    from common.protocol.release import Metrics

    return {
        "version": row.version,
        "parent": row.parent,
        "restores": row.restores,
        "created": row.created.replace(tzinfo=UTC).isoformat(timespec="seconds"),
        "weights": row.weights,
        "participants": row.participants,
        "metrics": Metrics.model_validate_json(row.metrics).model_dump(),
        "privacy": json.loads(row.privacy) if row.privacy else None,
        "signed": row.signed,
        "rollout": row.rollout,
    }


def _open(home: Path | None) -> tuple[CoordinatorHome, Registry]:
    from fl_server.registry import Registry

    place = existing(home)
    return place, Registry(place.database)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
