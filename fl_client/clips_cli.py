"""`fedaudio client clips ...` and `fedaudio client feedback`"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from fl_client.options import Home, Json, existing

if TYPE_CHECKING:
    from fl_client.device_clips import StoredClip

app = typer.Typer(help="The sound that is stored on this device.", no_args_is_help=True)

Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def feedback(
    event: Annotated[str, typer.Argument(help="Id of the event, or `last`.")],
    verdict: Annotated[str, typer.Argument(help="right, wrong, or the label it should have had.")],
    home: Home = None,
    speaker: Annotated[str | None, typer.Option(help="Who was heard.")] = None,
    as_json: Json = False,
) -> None:
    """Say whether an event was right: its sound, if it was kept, becomes a clip for the next round."""
    from fl_client.feedback import give_feedback

    given = give_feedback(existing(home), event, verdict, speaker)
    if as_json:
        typer.echo(json.dumps(asdict(given)))
        return
    fate = "not learned from" if given.label is None else f"a clip of {given.label!r} from now on"
    typer.echo(f"{given.event}, heard as {given.heard!r} by the task {given.task}, is {fate}.")


@app.command("list")
def show(home: Home = None, as_json: Json = False) -> None:
    """List all sound that is stored, and where it is from."""
    from fl_client.device_clips import stored_clips

    clips = stored_clips(existing(home))
    if as_json:
        typer.echo(json.dumps({"clips": [_facts(clip) for clip in clips]}))
        return
    for clip in clips:
        seconds = "damaged" if clip.seconds is None else f"{clip.seconds:.2f} s"
        date = clip.date.astimezone().strftime("%Y-%m-%d %H:%M")
        typer.echo(f"{clip.id}  {clip.label:16} {seconds:>9}  {clip.origin:8}  {date}  {clip.speaker or '-'}")
    typer.echo(f"{len(clips)} clips.")


@app.command()
def delete(
    ids: Annotated[list[str], typer.Argument(help="Ids as `clips list` prints them.")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Delete clips, and everything that was computed from them."""
    from fl_client.device_clips import delete_clips

    _report(delete_clips(existing(home), set(ids)), as_json)


@app.command()
def purge(
    home: Home = None,
    kept: Annotated[
        bool, typer.Option("--kept", help="What the listener has kept and nobody has labelled.")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="All clips, imported ones too.")] = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Delete all that the listener has kept, or all sound on this device."""
    from fl_client.device_clips import purge_all, purge_kept

    if kept == everything:
        raise typer.BadParameter("say which: --kept or --all, one of them")
    place = existing(home)
    what = f"all sound in {place.root}" if everything else f"the sounds kept in {place.heard}"
    if not yes:
        typer.confirm(f"Delete {what}?", abort=True, err=True)
    _report((purge_all if everything else purge_kept)(place), as_json)


def _facts(clip: StoredClip) -> dict[str, object]:
    facts = asdict(clip) | {"date": clip.date.isoformat(timespec="seconds")}
    return facts | {"path": str(clip.path)}


def _report(deleted: int, as_json: bool) -> None:
    typer.echo(json.dumps({"deleted": deleted}) if as_json else f"{deleted} deleted.")
