"""A run while it goes on: a bar on a terminal, a line a round elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bar

from simulations.progress import Doing, Progress
from simulations.results import SimulationResults


class RunView:
    """Shows rounds, accuracy, epsilon, attack success and the time left of one seed."""

    def __init__(self, console: Console, seed: int) -> None:
        self._console, self._seed = console, seed
        self.doing: Doing = "preparing"
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[figures]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(f"seed {seed}", total=None, figures="preparing")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self, progress: Progress) -> None:
        """Show how far it is."""
        self.doing = progress.doing
        if self._console.is_terminal:
            self._bar.update(
                self._task,
                total=progress.rounds,
                completed=_completed(progress),
                description=f"seed {self._seed}, round {progress.round}/{progress.rounds}",
                figures=f"{_figures(progress)}{_left(progress.seconds_left)}",
            )
        elif progress.doing == "learning":
            text = f"seed {self._seed}: {_figures(progress)}"
            self._console.print(text, highlight=False, soft_wrap=True)
        elif progress.doing == "over":
            void = f"void ({progress.void}), " if progress.void else ""
            text = f"seed {self._seed}, round {progress.round}/{progress.rounds}: {void}{_figures(progress)}"
            self._console.print(text, highlight=False, soft_wrap=True)


def void_rounds(results: Sequence[SimulationResults]) -> str | None:
    """One line about the rounds that made no version, of all seeds; None if every round made one."""
    rounds = [held for result in results for held in result.rounds]
    codes = Counter(held.void for held in rounds if held.void is not None)
    if not codes:
        return None
    why = ", ".join(f"{count} with {code}" for code, count in sorted(codes.items()))
    return f"{codes.total()} of {len(rounds)} rounds were void and changed nothing: {why}."


def _completed(progress: Progress) -> float:
    """Rounds, with the part of the present one: the bar of a long round would seem to stand still."""
    if progress.doing == "training":
        return progress.round - 1 + progress.answered / max(1, progress.cohort)
    return progress.round


def _figures(progress: Progress) -> str:
    if progress.doing == "preparing":
        return "preparing"
    if progress.doing == "learning":
        return f"learning from {', '.join(progress.sources)}"
    figures = [f"unseen {progress.accuracy:.3f}"]
    if progress.epsilon is not None:
        figures.append(f"epsilon {progress.epsilon:.2f}")
    if progress.attack_success is not None:
        figures.append(f"attack {progress.attack_success:.3f}")
    return ", ".join(figures)


def _left(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f", {hours}:{minutes:02}:{rest:02} left"
