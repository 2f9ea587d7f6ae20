"""What a grid of attacks and rules found: robustness.json."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Self

from common.settings import Settings
from simulations.results import SimulationResults


class RobustnessRun(Settings):
    """One simulation.

    Args:
        accuracy: of the last version on the unseen.
        attack_success, attack_turned: of its backdoor, see `SimulatedRound`; None where there is none.
        void: rounds that made no version, most often because the release gate stopped it.
        noise: where privacy noise came from, see `SimulationResults`.
    """

    seed: int
    accuracy: float
    attack_success: float | None
    attack_turned: float | None
    void: int
    noise: str | None

    @classmethod
    def of(cls, results: SimulationResults) -> Self:
        """What counts of one simulation's results."""
        return cls(
            seed=results.seed,
            accuracy=results.final.accuracy_unseen,
            attack_success=results.attack_success,
            attack_turned=results.attack_turned,
            void=sum(each.void is not None for each in results.rounds),
            noise=results.noise,
        )


class RobustnessCell(Settings):
    """One attack against one rule: means over the seeds.

    Args:
        attack, rule: as they were asked for.
        points_lost: percentage points below no attack with the plain mean, over the same seeds.
    """

    attack: str
    rule: str
    accuracy: float
    points_lost: float
    attack_success: float | None
    attack_turned: float | None
    void: float
    runs: tuple[RobustnessRun, ...]

    @classmethod
    def of(cls, attack: str, rule: str, runs: Sequence[RobustnessRun], baseline: Mapping[int, float]) -> Self:
        """A cell of these runs.

        Args:
            baseline: by seed, accuracy without an attack and with the plain mean.
        """
        return cls(
            attack=attack,
            rule=rule,
            accuracy=fmean(run.accuracy for run in runs),
            points_lost=100 * fmean(baseline[run.seed] - run.accuracy for run in runs),
            attack_success=_mean(run.attack_success for run in runs),
            attack_turned=_mean(run.attack_turned for run in runs),
            void=fmean(run.void for run in runs),
            runs=tuple(runs),
        )


class RobustnessResults(Settings):
    """All of a grid; robustness.json. A grid that was stopped lacks the cells that were not finished.

    Args:
        baseline: accuracy without an attack, with the plain mean.
        finished: whether every cell has every seed.
    """

    scenario: str
    share: float
    rounds: int
    seeds: tuple[int, ...]
    baseline: float | None
    finished: bool
    cells: tuple[RobustnessCell, ...]

    def cell(self, attack: str, rule: str) -> RobustnessCell | None:
        """The cell of `attack` and `rule`, if it is there."""
        return next((cell for cell in self.cells if (cell.attack, cell.rule) == (attack, rule)), None)


def _mean(values: Iterable[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return fmean(there) if there else None
