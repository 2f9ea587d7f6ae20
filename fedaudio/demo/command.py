"""`fedaudio demo`, as a person sees it."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from common.results import Results


def demo(
    data: Annotated[
        Path | None, typer.Option(help="Labelled recordings; a synthetic corpus if not given.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds to train.")] = 8,
    devices: Annotated[int, typer.Option(min=1, help="Devices; they share the training clips.")] = 4,
    partition: Annotated[
        str, typer.Option(help="How they share: by speaker, iid, or dirichlet:ALPHA over labels.")
    ] = "speaker",
    dp: Annotated[bool, typer.Option("--dp/--no-dp", help="Train under differential privacy.")] = False,
    unseen: Annotated[
        str,
        typer.Option(help="Speakers (or folds) nobody trains on, separated by commas; drawn if not given."),
    ] = "",
    seed: Annotated[int, typer.Option(min=0, help="Of all that is drawn, but for privacy noise.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for the final release and results.json.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print results.json instead of tables.")] = False,
) -> None:
    """Bring up a coordinator and devices on this machine, train, release, swap and listen.

    Ends with status 1 if training did not improve on the untrained model.
    """
    from fedaudio.demo.run import DemoConfig, run_demo
    from fedaudio.demo.view import DemoView

    config = DemoConfig(data, rounds, devices, partition, dp, tuple(_names(unseen)), seed)
    console = Console(stderr=as_json)
    work = Path(tempfile.mkdtemp(prefix="fedaudio-demo-"))
    try:
        with DemoView(console, rounds) as view:
            results = run_demo(config, work, out, view.tell, view.update)
    except BaseException:
        if any(work.glob("*.log")):
            console.print(f"Logs are in {work}.", highlight=False)
        else:
            shutil.rmtree(work, ignore_errors=True)
        raise
    shutil.rmtree(work, ignore_errors=True)
    if as_json:
        typer.echo(results.model_dump_json())
    else:
        _print(console, results)
    if results.final.accuracy_unseen <= results.initial.accuracy_unseen:
        raise typer.Exit(1)


def _print(console: Console, results: Results) -> None:
    table = Table(
        "round",
        "version",
        "accuracy on unseen speakers",
        "round s",
        "overhead s",
        "kB up",
        "kB down",
        "failed",
    )
    for row in results.rounds:
        table.add_row(
            str(row.round),
            str(row.version),
            f"{row.accuracy_unseen:.3f}",
            f"{row.seconds:.1f}",
            f"{row.overhead_seconds:.2f}",
            f"{row.bytes_up / 1e3 / max(1, row.participants):.0f}",
            f"{row.bytes_down / 1e3 / max(1, row.participants):.0f}",
            str(row.failed),
        )
    console.print(table)
    final, listening = results.final, results.listening
    privacy = (
        f"epsilon {final.epsilon:.2f} at delta {final.delta:g} for {final.unit} (the device that spent most)"
        if final.epsilon is not None
        else "no differential privacy (--dp turns it on)"
    )
    gap = listening.max_gap_seconds * 1e3
    for line in (
        f"Unseen speakers: {', '.join(results.speakers.unseen)}",
        f"Accuracy on them: {results.initial.accuracy_unseen:.3f} untrained, {final.accuracy_unseen:.3f} now",
        f"Privacy: {privacy}",
        f"Listening: {listening.hops} hops, {listening.dropped} dropped, {listening.doubled} doubled, "
        f"{listening.swaps} swaps, longest gap at a swap {gap:.1f} ms, {listening.events} events",
        "kB are payload per device and round.",
    ):
        console.print(line, highlight=False)


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
