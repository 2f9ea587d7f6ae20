"""What a sweep found: sweep.json, one line of figures for each cell of the grid and each seed."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import Field

from common.settings import Settings
from simulations.figures import SEEDED, validation_accuracy
from simulations.results import SimulationResults

CHOOSE = "Choose by the validation accuracy; the unseen are there to test what was chosen."

NO_CHOICE = (
    "There are no validation clips, and a choice by the unseen would spoil them as a test: "
    "to choose, set data.validation."
)


class SeedFigures(Settings):
    """One run.

    Args:
        accuracy_validation: of the last version on the coordinator's own clips, to choose by; None without.
        accuracy_unseen: of the last version on the unseen, to report and never to choose by.
        epsilon: of the device that spent most; None without privacy.
        noise: where privacy noise came from, see `SimulationResults`.
        bytes: that devices sent and received, in all.
        seconds: that the run took.
        attack_success: of the last version; None where nobody attacks.
    """

    seed: int
    rounds: int
    accuracy_validation: float | None
    accuracy_unseen: float
    epsilon: float | None
    noise: str | None
    bytes: int
    seconds: float
    attack_success: float | None

    @classmethod
    def of(cls, results: SimulationResults) -> Self:
        """The figures of one run's results."""
        rounds = results.rounds
        return cls(
            seed=results.seed,
            rounds=len(rounds),
            accuracy_validation=validation_accuracy(results),
            accuracy_unseen=results.final.accuracy_unseen,
            epsilon=results.final.epsilon,
            noise=results.noise,
            bytes=sum(each.bytes_up + each.bytes_down for each in rounds),
            seconds=results.seconds,
            attack_success=results.attack_success,
        )


class Cell(Settings):
    """One combination of the grid.

    Args:
        values: by key, as they were written.
        folder: its results, in the sweep's folder: one folder seed-N for each seed.
        seeds: those that are finished.
    """

    values: dict[str, str]
    folder: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._=+-]{0,199}$")]
    seeds: tuple[SeedFigures, ...] = ()


class SweepResults(Settings):
    """All of a sweep; one that was stopped has cells with fewer seeds.

    Args:
        keys: of the grid.
    """

    scenario: str
    keys: tuple[str, ...]
    seeds: tuple[int, ...]
    cells: tuple[Cell, ...]

    @property
    def runs(self) -> int:
        """One for each cell and seed."""
        return len(self.cells) * len(self.seeds)

    @property
    def done(self) -> int:
        """Those that are finished."""
        return sum(len(cell.seeds) for cell in self.cells)

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know before one reads anything out of the figures."""
        figures = [each for cell in self.cells for each in cell.seeds]
        seeded = [SEEDED] if any(each.noise == "seed" for each in figures) else []
        measured = any(each.accuracy_validation is not None for each in figures)
        return (CHOOSE if measured or not figures else NO_CHOICE, *seeded)


@dataclass(frozen=True)
class Spread:
    """A figure over seeds.

    Args:
        deviation: standard deviation of the sample; None of one seed.
    """

    mean: float
    deviation: float | None
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread | None:
        """Of those that there are; None if there are none."""
        there = tuple(value for value in values if value is not None)
        if not there:
            return None
        return cls(statistics.fmean(there), statistics.stdev(there) if len(there) > 1 else None, there)


def spreads(figures: Sequence[SeedFigures]) -> dict[str, Spread | None]:
    """Accuracies, attack success, epsilon, bytes and seconds over seeds."""
    return {
        name: Spread.of(getattr(each, name) for each in figures)
        for name in (
            "accuracy_validation",
            "accuracy_unseen",
            "attack_success",
            "epsilon",
            "bytes",
            "seconds",
        )
    }
