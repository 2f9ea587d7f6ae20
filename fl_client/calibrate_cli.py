"""`fedaudio client calibrate`"""

from __future__ import annotations

import json
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import track

from common.data.clips import sound_files
from common.errors import AudioError
from common.files import write_atomic
from common.settings import finite, load_settings
from fl_client.options import Home, Json, existing
from fl_client.settings import DeviceSettings

if TYPE_CHECKING:
    from common.protocol.release import Release
    from fl_client.calibration import Calibration, Negatives


def calibrate(
    negatives: Annotated[
        list[Path],
        typer.Argument(help="Recordings in which none of the labels is heard, or folders of them."),
    ],
    home: Home = None,
    false_accepts_per_hour: Annotated[
        float | None,
        typer.Option(
            min=1e-4, max=1000, callback=finite, help="All labels together; as device.toml says if not given."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Find thresholds at which the newest model is wrong as seldom as you wish, and put them in device.toml.

    A listener takes them over when it starts.
    """
    from fl_client.calibration import Negatives
    from fl_client.calibration import calibrate as find
    from fl_client.newest import newest

    place = existing(home)
    settings = load_settings(DeviceSettings, place.config).listen
    release = newest(place)
    heard = Negatives(release, settings)
    for file, reason in _hear(heard, list(_files(negatives))):
        typer.echo(f"left out: {file}: {reason}", err=True)
    found = find(heard, false_accepts_per_hour or settings.false_accepts_per_hour)
    if not dry_run:
        _write(place.config, release.version, found)
    written = None if dry_run else place.config
    if as_json:
        typer.echo(json.dumps(_document(release, found, written)))
    else:
        typer.echo("\n".join(_lines(release, found, written)))


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sound_files(path.rglob("*"))
        else:
            yield path


def _hear(heard: Negatives, files: list[Path]) -> Iterator[tuple[Path, str]]:
    """Hear all `files`; those that cannot be read to their end, and why."""
    from common.audio.reading import iterate_audio
    from fl_client.listen.pipeline import BLOCK

    console = Console(stderr=True)
    for file in track(files, "hearing", console=console, transient=True, disable=not console.is_terminal):
        try:
            heard.hear(iterate_audio(file, BLOCK))
        except AudioError as error:
            yield file, error.happened


def _write(config: Path, version: int, found: Calibration) -> None:
    from fl_client.toml_table import merge_table

    note = (
        f"By `fedaudio client calibrate` with version {version}: "
        f"{found.total} false accepts in {found.hours:.2f} hours, at most {found.wish:g} an hour wished."
    )
    file = config.resolve()
    text = merge_table(file.read_bytes().decode(), ("listen", "thresholds"), found.thresholds, note)
    text = merge_table(text, ("listen", "calibration"), {"version": version}, "Of these thresholds.")
    write_atomic(file, text.encode(), stat.S_IMODE(file.stat().st_mode))


def _document(release: Release, found: Calibration, written: Path | None) -> dict[str, object]:
    labels = {
        label: {"threshold": threshold, "false_accepts": found.false_accepts[label]}
        for label, threshold in found.thresholds.items()
    }
    return {
        "version": release.version,
        "hours": round(found.hours, 4),
        "false_accepts_per_hour": found.wish,
        "false_accepts": found.total,
        "per_hour": round(found.per_hour, 4),
        "at_most_per_hour": round(found.at_most, 4),
        "hours_needed": round(found.hours_needed, 4),
        "enough": found.is_enough,
        "labels": labels,
        "written": None if written is None else str(written),
    }


def _lines(release: Release, found: Calibration, written: Path | None) -> Iterator[str]:
    yield f"{found.hours:.2f} hours were heard with version {release.version}."
    width = max(map(len, found.thresholds))
    for label, threshold in found.thresholds.items():
        yield f"  {label:{width}}  {threshold:.4f}  {found.false_accepts[label]} false accepts"
    yield (
        f"Together {found.total} false accepts: {found.per_hour:.2f} an hour, "
        f"and at 95 % no more than {found.at_most:.2f}."
    )
    if not found.is_enough:
        yield (
            f"That is too little sound to promise {found.wish:g} an hour: "
            f"it takes {found.hours_needed:.1f} hours without a false accept, and more with some. "
            "So no threshold was put below the release's own."
        )
    if written is None:
        yield "Nothing was changed."
    else:
        yield f"Written to {written}; a listener takes it over when it starts."
