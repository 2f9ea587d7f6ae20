"""`fedaudio demo`, as a person sees it."""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console


def demo(
    data: Annotated[
        Path | None, typer.Option(help="Labelled recordings; a synthetic corpus if not given.")
    ] = None,
    corpus: Annotated[
        Literal["words", "textures"], typer.Option(help="Which synthetic corpus, without --data.")
    ] = "words",
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
    from common.settings import split_list
    from fedaudio.demo.run import DemoConfig, run_demo
    from fedaudio.demo.summary import print_summary
    from fedaudio.demo.view import DemoView

    config = DemoConfig(data or corpus, rounds, devices, partition, dp, tuple(split_list(unseen)), seed)
    console = Console(stderr=as_json)
    with _unwound_by_sigterm(), _work_folder(console) as work, DemoView(console, rounds) as view:
        outcome = run_demo(config, work, out, view.tell, view.update)
    for file, reason in outcome.left_out:
        typer.echo(f"left out: {file}: {reason}", err=True)
    results = outcome.results
    if as_json:
        typer.echo(results.model_dump_json())
    else:
        print_summary(console, outcome)
    if results.final.accuracy_unseen <= results.initial.accuracy_unseen:
        raise typer.Exit(1)


@contextmanager
def _unwound_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the demo as Ctrl-C does: its processes are ended and its folder is removed."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _work_folder(console: Console) -> Iterator[Path]:
    """A temporary folder; it stays, and is named, if the demo fails and there are logs in it."""
    work = Path(tempfile.mkdtemp(prefix="fedaudio-demo-"))
    keep = False
    try:
        yield work
    except Exception:
        keep = any(work.glob("*.log"))
        raise
    finally:
        if keep:
            console.print(f"Logs are in {work}.", highlight=False, soft_wrap=True)
        else:
            shutil.rmtree(work, ignore_errors=True)
