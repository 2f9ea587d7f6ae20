"""`fedaudio model info`: what a model costs a device, and how soon it can know."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from common.errors import TrainingError
from common.log import printable
from common.settings import parse_settings
from common.task import Task

if TYPE_CHECKING:
    from common.models.costs import Costs


def info(
    model: Annotated[Path | None, typer.Argument(help="manifest.json of a release, or its folder.")] = None,
    architecture: Annotated[
        str | None, typer.Option(help="Of a model that nobody has trained yet, in place of MODEL.")
    ] = None,
    labels: Annotated[
        int | None, typer.Option(min=2, max=1000, help="With --architecture: how many it tells apart; 10.")
    ] = None,
    width: Annotated[int | None, typer.Option(help="With --architecture: task.width")] = None,
    clip_seconds: Annotated[float | None, typer.Option(help="With --architecture: task.clip_seconds")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what a model costs: parameters, arithmetic, memory, and the delay nothing can take away."""
    from common.models.costs import costs_of

    untrained = [option for option in (architecture, labels, width, clip_seconds) if option is not None]
    if (model is None) == (architecture is None) or (model is not None and untrained):
        raise TrainingError(
            "FA-7050",
            "A model is either one that was released or an architecture with its options.",
            "Give the folder of a release, or --architecture.",
        )
    if model is None:
        names = [f"label {number}" for number in range(labels or 10)]
        seconds = 1.0 if clip_seconds is None else clip_seconds
        document = {"labels": names, "architecture": architecture, "width": width, "clip_seconds": seconds}
        task, known = parse_settings(Task, document, "The options"), None
    else:
        task = _task_of(model)
        known = task.labels
    costs = costs_of(task)
    if as_json:
        typer.echo(json.dumps({"labels": known} | asdict(costs)))
    else:
        typer.echo(_table(costs, known))


def _task_of(model: Path) -> Task:
    """The task of a release, which must be shaped as its architecture is here.

    Raises:
        ProtocolError: FA-3011, FA-3046.
        TrainingError: FA-7001, FA-7051.
    """
    from common.models.costs import is_shaped
    from common.protocol.release import LARGEST_MANIFEST, MANIFEST, parse_manifest
    from common.protocol.signed_release import read_part
    from fedaudio.model import folder_of

    manifest = parse_manifest(read_part(folder_of(model) / MANIFEST, LARGEST_MANIFEST))
    if not is_shaped(manifest):
        raise TrainingError(
            "FA-7051",
            f"This release is not shaped as {printable(manifest.task.architecture)} is here.",
            "Use the version of fedaudio that the release was made with.",
        )
    return manifest.task


def _table(costs: Costs, labels: Sequence[str] | None) -> str:
    runs = "each frame, as it comes" if costs.streaming else "windows that slide over the sound"
    rows = [
        ("architecture", f"{printable(costs.architecture)}, on {runs}"),
        ("parameters", f"{costs.parameters:,} ({costs.parameters * 4 / 1024:,.0f} KiB)"),
        ("MACs per decision", f"{costs.macs_per_decision:,}"),
        ("MACs per second", f"{costs.macs_per_second / 1e6:,.2f} million, of sound"),
        ("state", f"{costs.state_bytes / 1024:,.1f} KiB between two decisions"),
        ("receptive field", f"{costs.receptive_field_ms:,.0f} ms"),
        ("a decision every", f"{costs.hop_ms:,.0f} ms, about {costs.window_ms:,.0f} ms of sound"),
        ("latency floor", f"{costs.latency_floor_ms:,.0f} ms"),
    ]
    if labels is not None:
        rows.insert(0, ("labels", printable(", ".join(labels))))
    return "\n".join(f"{name:<18} {value}" for name, value in rows)
