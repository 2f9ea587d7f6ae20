"""`fedaudio server log ...`"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated

import typer

from common.errors import ConfigError
from common.log import printable
from fl_server.options import Home, Json, existing

app = typer.Typer(
    help="The evidence: what happened, in a log that is only ever added to.", no_args_is_help=True
)


@app.command()
def show(
    home: Home = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print each line as it was written: JSON.")] = False,
) -> None:
    """All lines, oldest first."""
    from fl_server import evidence
    from fl_server.registry import Registry

    for line in evidence.lines(Registry(existing(home).database)):
        typer.echo(line if as_json else _readable(line))


@app.command()
def verify(
    home: Home = None,
    heads: Annotated[
        list[str] | None,
        typer.Option("--head", metavar="N:DIGEST", help="What this printed earlier, and was kept elsewhere."),
    ] = None,
    manifests: Annotated[
        list[Path] | None,
        typer.Option("--manifest", help="manifest.json that a device has, with its manifest.sig beside it."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check that no line was changed, dropped or moved, and that the releases are those it tells of."""
    from fl_server import evidence, witnesses
    from fl_server.keyring import load_trust, release_keys_ever
    from fl_server.registry import Registry

    place = existing(home)
    kept = [_parse_head(text) for text in heads or ()]
    registry, signers = Registry(place.database), release_keys_ever(place)
    verified = evidence.verify(registry, place.evidence_head)
    for entries, digest in kept:
        evidence.check_anchor(registry, entries, digest, "the head that was kept")
    findings = witnesses.check_releases(registry, place.releases, signers)
    for path in manifests or ():
        witnesses.check_kept(registry, path, signers, load_trust(place)[2])
    if as_json:
        said = {"entries": verified.entries, "head": verified.head, "findings": findings}
        typer.echo(json.dumps(said))
        return
    for finding in findings:
        typer.echo(finding)
    typer.echo(f"All {verified.entries} lines are as they were written, as far as can be seen from here.")
    typer.echo(f"Keep elsewhere, for a later verify: --head {verified.entries}:{verified.head}")


def _parse_head(text: str) -> tuple[int, str]:
    match = re.fullmatch(r"([0-9]{1,15}):([0-9a-f]{64})", text)
    if match is None:
        raise ConfigError(
            "FA-6003", f"{text[:80]!r} is no head of the log.", "Write N:DIGEST, as verify printed it."
        )
    return int(match[1]), match[2]


def _readable(line: str) -> str:
    fields = json.loads(line)
    seq, time, kind = (fields.pop(name) for name in ("seq", "time", "kind"))
    del fields["previous"]
    facts = " ".join(f"{name}={_short(value)}" for name, value in fields.items())
    return printable(f"{seq:>6}  {time}  {kind:<13}  {facts}")


def _short(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
