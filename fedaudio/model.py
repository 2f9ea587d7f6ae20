"""`fedaudio model ...`: for whoever is handed a model and wants to know where it is from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from common.errors import ProtocolError
from common.files import is_there
from common.log import printable
from fedaudio.evaluation.command import evaluate
from fedaudio.model_info import info

if TYPE_CHECKING:
    from common.protocol.release import Manifest

app = typer.Typer(help="Released models, wherever they came from.", no_args_is_help=True)
app.command()(info)
app.command()(evaluate)


@app.callback()
def group() -> None:
    """Released models, wherever they came from."""


@app.command()
def verify(
    model: Annotated[Path, typer.Argument(help="manifest.json of a release, or its folder.")],
    trust: Annotated[
        Path | None, typer.Option(help="The coordinator's trust statement; else trust.fas beside the model.")
    ] = None,
    pin: Annotated[
        str | None, typer.Option(help="Fingerprint of the coordinator's root, from its operator.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check a model: who released it, that it is whole, and that it has not expired."""
    manifest, root = verify_folder(folder_of(model), trust, pin)
    if as_json:
        document = {"version": manifest.version, "root": root, "pinned": pin is not None}
        document |= {"weights": manifest.weights, "created": manifest.created.isoformat()}
        typer.echo(json.dumps(document | {"expires": manifest.expires.isoformat()}))
        return
    task = manifest.task
    made, labels = f"{manifest.created:%Y-%m-%d %H:%M} UTC", printable(", ".join(task.labels))
    typer.echo(f"Version {manifest.version}, made on {made}: whole and signed.")
    typer.echo(f"  {len(manifest.tensors)} tensors, {printable(task.architecture)}, labels {labels}")
    typer.echo(f"  good until {manifest.expires:%Y-%m-%d %H:%M} UTC")
    typer.echo(f"  root {root}")
    if pin is None:
        typer.echo(
            "The root itself is unproven: anybody can make one. Compare it with the fingerprint that the "
            "coordinator's operator gives you, or give that with --pin."
        )


def verify_folder(folder: Path, trust: Path | None = None, pin: str | None = None) -> tuple[Manifest, str]:
    """Check the release in `folder`, with a trust statement that is in it if `trust` names no other.

    Args:
        pin: fingerprint that the coordinator's root must have; without it any root will do, and only the
            caller can tell whether it is the right one.

    Returns:
        The manifest, and the fingerprint of the root it is signed under.

    Raises:
        ProtocolError: FA-3001..FA-3003, FA-3011, FA-3012, FA-3016..FA-3018, FA-3025, FA-3026, FA-3028,
            FA-3040..FA-3046.
    """
    from common.protocol.release import FILES, LARGEST_GRAPH, LARGEST_WEIGHTS, WEIGHTS
    from common.protocol.signed_release import read_part, verify_release
    from common.security.trust import LARGEST_TRUST, check_time, open_trust
    from fl_server.releases import TRUST

    if trust is None and not is_there(folder / TRUST):
        raise ProtocolError(
            "FA-3046",
            f"There is no {TRUST} in {folder}.",
            "Give the coordinator's with --trust; its keys folder and each device's identity folder have it.",
        )
    data = read_part(trust or folder / TRUST, LARGEST_TRUST)
    root = _root_inside(data) if pin is None else pin.lower()
    stated = open_trust(data, root)
    check_time(stated.created, stated.expires, "trust statement")
    limits = dict.fromkeys(FILES, LARGEST_GRAPH) | {WEIGHTS: LARGEST_WEIGHTS}
    names = {path.name for path in folder.iterdir()} - {TRUST}
    # What does not belong there is named, not read.
    files = {name: read_part(folder / name, limits[name]) if name in limits else b"" for name in names}
    return verify_release(files, stated.release_keys(), root).manifest, root


def folder_of(model: Path) -> Path:
    """The folder of a release that is named by itself or by its manifest.

    Raises:
        ProtocolError: FA-3046.
    """
    from common.protocol.release import MANIFEST

    if model.is_dir():
        return model
    if model.name == MANIFEST and model.is_file():
        return model.parent
    raise ProtocolError(
        "FA-3046", f"{model} is neither a {MANIFEST} nor a folder.", "Name the folder of a release."
    )


def _root_inside(trust: bytes) -> str:
    """Fingerprint of the root that a trust statement claims to be under; empty if it cannot be one."""
    from common.protocol.signed_release import coordinator_of
    from common.security.canonical import read_canonical
    from common.security.certificates import UNREADABLE
    from common.security.statement import SIGNATURE_BYTES
    from common.security.trust import Trust

    stated = read_canonical(Trust, trust[SIGNATURE_BYTES:])
    try:
        return "" if isinstance(stated, str) else coordinator_of(stated)
    except UNREADABLE:
        return ""
