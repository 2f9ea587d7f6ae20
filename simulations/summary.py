"""What `simulate run` prints when it is done: a line for each seed, and their mean and spread."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from common.settings import Settings
from simulations.figures import SEEDED, devices_accuracy
from simulations.results import SimulationResults


class SeedSummary(Settings):
    """One run in a few figures; see `SimulationResults` and `simulations.figures`."""

    seed: int
    folder: Path
    rounds: int
    void: int
    accuracy_unseen: float
    accuracy_devices: float | None
    epsilon: float | None
    noise: str | None
    attack_success: float | None
    bytes_up: int
    bytes_down: int
    seconds: float
    interrupted: bool


class Summary(Settings):
    """All seeds of a scenario.

    Args:
        mean, spread: of the accuracy on the unseen; the sample standard deviation, None of a single seed.
    """

    scenario: str
    seeds: tuple[SeedSummary, ...]
    mean: float
    spread: float | None


def summary(results: Sequence[SimulationResults], folder: Path) -> Summary:
    """The figures of at least one run; `folder` has a folder for each."""
    accuracies = [result.final.accuracy_unseen for result in results]
    return Summary(
        scenario=results[0].scenario,
        seeds=tuple(_of_seed(result, folder / f"seed-{result.seed}") for result in results),
        mean=statistics.fmean(accuracies),
        spread=statistics.stdev(accuracies) if len(accuracies) > 1 else None,
    )


def print_summary(console: Console, found: Summary) -> None:
    """A table, and where the rest is."""
    figures = "unseen acc.", "devices' acc.", "epsilon", "noise", "attack", "MB", "seconds"
    table = Table("seed", "rounds", "void", *figures)
    for row in found.seeds:
        table.add_row(
            str(row.seed),
            f"{row.rounds}{' (interrupted)' if row.interrupted else ''}",
            str(row.void),
            f"{row.accuracy_unseen:.3f}",
            _text(row.accuracy_devices, ".3f"),
            _text(row.epsilon, ".2f"),
            row.noise or "",
            _text(row.attack_success, ".3f"),
            f"{(row.bytes_up + row.bytes_down) / 1e6:.1f}",
            f"{row.seconds:.1f}",
        )
    console.print(table)
    spread = "" if found.spread is None else f" ± {found.spread:.3f} over {len(found.seeds)} seeds"
    folders = found.seeds[0].folder.parent
    seeded = [SEEDED] if any(row.noise == "seed" for row in found.seeds) else []
    for line in (
        *seeded,
        f"{found.scenario}: accuracy on the unseen {found.mean:.3f}{spread}",
        f"Results are in {folders}; a page about them: fedaudio simulate report {folders}",
    ):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _of_seed(result: SimulationResults, folder: Path) -> SeedSummary:
    rounds = result.rounds
    return SeedSummary(
        seed=result.seed,
        folder=folder,
        rounds=len(rounds),
        void=sum(held.void is not None for held in rounds),
        accuracy_unseen=result.final.accuracy_unseen,
        accuracy_devices=devices_accuracy(result),
        epsilon=result.final.epsilon,
        noise=result.noise,
        attack_success=result.attack_success,
        bytes_up=sum(held.bytes_up for held in rounds),
        bytes_down=sum(held.bytes_down for held in rounds),
        seconds=result.seconds,
        interrupted=result.interrupted,
    )


def _text(value: float | None, how: str) -> str:
    return "" if value is None else format(value, how)
