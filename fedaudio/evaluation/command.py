"""`fedaudio model evaluate`"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from common.data.clips import Clips
from common.errors import TrainingError
from common.settings import finite, split_list

if TYPE_CHECKING:
    from common.protocol.release import Release
    from fedaudio.evaluation.figures import Draw
    from fedaudio.evaluation.results import ClipResults
    from fedaudio.evaluation.trial import Listened, Sounds

Split = Literal["speaker", "fold"]


def evaluate(
    model: Annotated[Path, typer.Argument(help="manifest.json of a release, or its folder.")],
    data: Annotated[Path, typer.Argument(help="Labelled clips in any known layout.")],
    split: Annotated[Split, typer.Option(help="What clips are grouped by.")] = "speaker",
    only: Annotated[str, typer.Option(help="Only these speakers or folds, separated by commas.")] = "",
    robustness: Annotated[
        bool, typer.Option("--robustness", help="Also in noise, in rooms, too loud, too quiet, at 8 kHz.")
    ] = False,
    streaming: Annotated[
        bool, typer.Option("--streaming", help="Also on continuous sound: misses, false accepts, latency.")
    ] = False,
    negatives: Annotated[
        Path | None, typer.Option(help="With --streaming: clips without any of the model's words.")
    ] = None,
    snr_db: Annotated[
        float,
        typer.Option(
            min=-10.0, max=60.0, callback=finite, help="With --streaming: level of words over noise."
        ),
    ] = 10.0,
    hours: Annotated[
        float,
        typer.Option(
            min=0.01, callback=finite, help="With --streaming: hours of synthetic sound without words."
        ),
    ] = 1.0,
    false_accepts: Annotated[
        float,
        typer.Option(
            min=0.0, callback=finite, help="With --streaming: false accepts an hour to find a threshold for."
        ),
    ] = 1.0,
    out: Annotated[Path | None, typer.Option(help="Folder for pictures (needs matplotlib).")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of noise, rooms and streams.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Try a model on labelled clips: how often it is right, and about what and whom it is not."""
    from common.pictures import prepare_folder
    from common.protocol.release import load_release
    from fedaudio.model import folder_of

    if negatives is not None and not streaming:
        raise TrainingError(
            "FA-7063", "Negatives are given, but nothing is listened to.", "Give --streaming as well."
        )
    if out is not None:
        prepare_folder(out)
    release = load_release(folder_of(model))
    chosen = _chosen(Clips.load(data), split, only)
    others = Clips.load(negatives) if negatives is not None else Clips()
    clips = _try_clips(release, chosen, split, robustness, seed)
    listened = None
    if streaming:
        from fedaudio.evaluation.trial import Sounds

        sounds = Sounds(clips.tried.clips, others, snr_db, hours, seed)
        listened = _listen(release, sounds, false_accepts)
    pictures = _pictures(clips, listened, out) if out is not None else {}
    # What took so long is told first: a picture may fail yet.
    if as_json:
        typer.echo(json.dumps(_document(release, clips, listened, list(pictures))))
    else:
        _print(clips, listened)
    for picture, draw in pictures.items():
        draw(picture)
        if not as_json:
            typer.echo(f"Wrote {picture}.")


def _chosen(clips: Clips, split: Split, only: str) -> Clips:
    from common.data.splits import hold_out

    return hold_out(clips, split_list(only), split)[1] if only else clips


def _try_clips(release: Release, clips: Clips, split: Split, robustness: bool, seed: int) -> ClipResults:
    from common.evaluation.conditions import CLEAN, CONDITIONS
    from fedaudio.evaluation.naming import name_clips, triable
    from fedaudio.evaluation.results import ClipResults

    tried = triable(clips, release.manifest.task)
    conditions = CONDITIONS if robustness else (CLEAN,)
    groups = [getattr(clip, split) or "-" for clip in tried.clips]
    with _progress("naming clips", len(tried.clips) * len(conditions)) as advance:
        answers, damaged = name_clips(release, tried, groups, conditions, seed, advance)
    return ClipResults(answers, tried, damaged, split)


def _listen(release: Release, sounds: Sounds, wanted: float) -> Listened:
    from fedaudio.evaluation.trial import listen_through

    with _progress("listening", 1.0) as advance:
        return listen_through(release, sounds, wanted, advance)


def _pictures(clips: ClipResults, listened: Listened | None, folder: Path) -> dict[Path, Draw]:
    from fedaudio.evaluation.figures import pictures_of

    return pictures_of(clips, listened, folder)


def _document(
    release: Release, clips: ClipResults, listened: Listened | None, pictures: list[Path]
) -> dict[str, object]:
    from fedaudio.evaluation.results import clips_document, listening_document

    return {
        "version": release.version,
        "clips": clips_document(clips),
        "streaming": None if listened is None else listening_document(listened),
        "pictures": [str(picture) for picture in pictures],
    }


def _print(clips: ClipResults, listened: Listened | None) -> None:
    from rich.console import Console

    from fedaudio.evaluation.text import print_clips, print_listening

    console = Console(highlight=False)
    print_clips(console, clips)
    if listened is not None:
        print_listening(console, listened)


@contextmanager
def _progress(what: str, total: float) -> Iterator[Callable[[float], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)
