"""`fedaudio model evaluate`"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from common.data.clips import Clips
from common.settings import split_list

if TYPE_CHECKING:
    from common.protocol.release import Release
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
        float, typer.Option(min=-10.0, max=60.0, help="With --streaming: level of words over noise.")
    ] = 10.0,
    hours: Annotated[
        float, typer.Option(min=0.01, help="With --streaming: hours of synthetic sound without words.")
    ] = 1.0,
    false_accepts: Annotated[
        float, typer.Option(min=0.0, help="With --streaming: false accepts an hour to find a threshold for.")
    ] = 1.0,
    out: Annotated[Path | None, typer.Option(help="Folder for pictures (needs matplotlib).")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of noise, rooms and streams.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Try a model on labelled clips: how often it is right, and about what and whom it is not."""
    from common.pictures import require_matplotlib
    from common.protocol.release import load_release
    from fedaudio.model import folder_of

    if out is not None:
        require_matplotlib()
    release = load_release(folder_of(model))
    clips = _try_clips(release, _chosen(Clips.load(data), split, only), split, robustness, seed)
    listened = None
    if streaming:
        from fedaudio.evaluation.trial import Sounds

        others = Clips() if negatives is None else Clips.load(negatives)
        sounds = Sounds(clips.tried.clips, others, snr_db, hours, seed)
        listened = _listen(release, sounds, false_accepts)
    pictures = _draw(out, clips, listened) if out is not None else []
    if as_json:
        typer.echo(json.dumps(_document(release, clips, listened, pictures)))
    else:
        _print(clips, listened, pictures)


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


def _draw(folder: Path, clips: ClipResults, listened: Listened | None) -> list[Path]:
    from fedaudio.evaluation.figures import draw_clips, draw_listening

    pictures = draw_clips(clips, folder)
    return pictures if listened is None else [*pictures, draw_listening(listened, folder / "det.png")]


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


def _print(clips: ClipResults, listened: Listened | None, pictures: list[Path]) -> None:
    from rich.console import Console

    from fedaudio.evaluation.text import print_clips, print_listening

    console = Console(highlight=False)
    print_clips(console, clips)
    if listened is not None:
        print_listening(console, listened)
    for picture in pictures:
        typer.echo(f"Wrote {picture}.")


@contextmanager
def _progress(what: str, total: float) -> Iterator[Callable[[float], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)
