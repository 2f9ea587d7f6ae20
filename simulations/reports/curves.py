"""Figures over rounds: a mean over seeds, and the range they lie in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from simulations.reports.drawing import DROPPED, FAILED, GOOD, LATE, MUTED, SERIES, Drawing, name_of
from simulations.reports.page import Markup
from simulations.results import SimulatedRound, SimulationResults

Seeds = Sequence[SimulationResults]
Value = Callable[[SimulatedRound], float | None]

POINTS = 800
"""As many as one can tell apart in a figure; of longer runs every n-th round is drawn."""


@dataclass(frozen=True)
class Curve:
    """One value over rounds, (rounds,) each."""

    rounds: NDArray[np.float64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    @classmethod
    def of(cls, seeds: Seeds, value: Value, first: float | None = None, *, tested: bool = False) -> Curve:
        """Over the rounds that every seed has gone through, where any has the value.

        Args:
            first: before the first round.
            tested: the value is of a test on the unseen, and rounds without such a test repeat the last.
        """
        rows = [
            [None if tested and not was_tested(each, results) else value(each) for each in results.rounds]
            for results in seeds
        ]
        points = [(0, [first])] if first is not None else []
        for number, column in enumerate(zip(*rows, strict=False), start=1):
            if there := [each for each in column if each is not None]:
                points.append((number, there))
        every = -(-len(points) // POINTS) or 1
        points = [*points[:-1:every], *points[-1:]]
        return cls(
            np.array([number for number, _ in points], float),
            np.array([np.mean(values) for _, values in points]),
            np.array([min(values) for _, values in points]),
            np.array([max(values) for _, values in points]),
        )

    def __bool__(self) -> bool:
        return len(self.rounds) > 0

    def draw(self, drawing: Drawing, label: str, colour: str, x: NDArray[np.float64] | None = None) -> None:
        """Onto `drawing`, over `x`, (rounds,), in place of the number of the round."""
        x = self.rounds if x is None else x
        marker = "o" if len(x) < 3 else None
        drawing.axes.plot(x, self.mean, color=colour, label=label, marker=marker, markersize=4)
        if (self.high > self.low).any():
            drawing.axes.fill_between(x, self.low, self.high, color=colour, alpha=0.18, linewidth=0)


def was_tested(held: SimulatedRound, results: SimulationResults) -> bool:
    """Whether what `held` says of the unseen is of the version that was the newest then."""
    every, last = results.config.get("evaluate_every"), results.config.get("number_of_rounds")
    if not isinstance(every, int) or every == 1:
        return True
    return held.void is None and (held.round % every == 0 or held.round == last)


def accuracy_on_unseen(seeds: Seeds) -> Curve:
    """From the untrained model on."""
    return Curve.of(seeds, lambda each: each.accuracy_unseen, initial_accuracy(seeds), tested=True)


def initial_accuracy(seeds: Seeds) -> float:
    """Of the untrained model on the unseen."""
    return float(np.mean([results.initial.accuracy_unseen for results in seeds]))


def accuracy_over_rounds(seeds: Seeds) -> Markup:
    """On the unseen, on what devices keep, and on the coordinator's own clips."""
    drawing = Drawing()
    accuracy_on_unseen(seeds).draw(drawing, "unseen", SERIES[0])
    values: tuple[tuple[str, Value], ...] = (
        ("devices' own clips", lambda each: each.accuracy_devices),
        ("coordinator's clips", lambda each: each.accuracy_validation),
    )
    for (label, value), colour in zip(values, SERIES[1:], strict=False):
        if curve := Curve.of(seeds, value):
            curve.draw(drawing, label, colour)
    return _finish(drawing, "Accuracy over rounds", "round", "accuracy (%)", share=True)


def accuracy_over_bytes(seeds: Seeds) -> Markup:
    """On the unseen, over all that was sent either way so far."""
    sent = _running_total(seeds, lambda each: each.bytes_up + each.bytes_down)
    size, unit = unit_of_bytes(sent[-1])
    return _accuracy_over(
        seeds, sent / size, "Accuracy over bytes", f"sent and received by all devices ({unit})"
    )


def accuracy_over_clock(seeds: Seeds) -> Markup:
    """On the unseen, over the time that the rounds would have taken real devices."""
    clock = np.array([0.0, *np.mean(_equally_long(seeds, lambda each: each.clock_seconds), axis=0)])
    seconds, unit = unit_of_time(clock[-1])
    return _accuracy_over(seeds, clock / seconds, "Accuracy over time", f"simulated time ({unit})")


def loss_over_rounds(seeds: Seeds) -> Markup:
    """On the unseen."""
    drawing = Drawing()
    curve = Curve.of(seeds, lambda each: each.loss, tested=True)
    curve.draw(drawing, "unseen", SERIES[0])
    if curve and (curve.low > 0).all() and curve.high.max() > 20 * curve.low.min():
        drawing.axes.set_yscale("log")
    return _finish(drawing, "Loss over rounds", "round", "loss (nats)")


def epsilon_over_rounds(seeds: Seeds) -> Markup:
    """Spent by the device that spent most."""
    drawing = Drawing()
    Curve.of(seeds, lambda each: each.epsilon, 0.0).draw(drawing, "epsilon", SERIES[3])
    drawing.axes.set_ylim(bottom=0)
    return _finish(drawing, "Epsilon over rounds", "round", "epsilon spent")


def attack_success_over_rounds(seeds: Seeds) -> Markup:
    """Share of clips with the trigger that are called the attacker's target."""
    drawing = Drawing()
    Curve.of(seeds, lambda each: each.attack_success, tested=True).draw(drawing, "attack success", SERIES[5])
    return _finish(drawing, "Attack success over rounds", "round", "attack success (%)", share=True)


def participation(results: SimulationResults) -> Markup:
    """What became of the cohort of each round; rounds that made no version are marked."""
    from matplotlib.ticker import MaxNLocator

    drawing = Drawing()
    rounds = results.rounds
    every = -(-len(rounds) // POINTS) or 1
    shown = rounds[::every]
    numbers = np.array([each.round for each in shown])
    parts = (
        ("answered", GOOD, [each.participants for each in shown]),
        ("late", LATE, [each.late for each in shown]),
        ("dropped out", DROPPED, [each.dropped for each in shown]),
        ("failed otherwise", FAILED, [max(0, each.failed - each.late - each.dropped) for each in shown]),
    )
    below = np.zeros(len(shown))
    for label, colour, counts in parts:
        if any(counts):
            drawing.axes.fill_between(
                *_steps(numbers, below, below + counts, every),
                color=colour,
                label=label,
                alpha=0.8,
                linewidth=0,
            )
            below = below + counts
    void = [(each.round, each.cohort) for each in shown if each.void]
    if void:
        drawing.axes.plot(*zip(*void, strict=True), "x", color=FAILED, label="void round", markersize=6)
    drawing.axes.set_ylim(0, max(1.0, below.max(), *(each.cohort for each in shown)) * 1.05)
    drawing.axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    return _finish(drawing, "Participation over rounds", "round", "devices")


def accuracies_of_cells(cells: Sequence[tuple[str, Seeds]]) -> Markup:
    """On the unseen over rounds, a curve for each cell of a sweep; at most as many as there are colours."""
    drawing = Drawing(height=3.6)
    for (label, seeds), colour in zip(cells, SERIES, strict=False):
        accuracy_on_unseen(seeds).draw(drawing, name_of(label, 40), colour)
    # There are too many for a line above, and accuracies mostly leave this corner.
    drawing.axes.legend(loc="lower right")
    title = f"Accuracy over rounds of {', '.join(label for label, _ in cells)}"
    return _finish(drawing, title, "round", "accuracy (%)", share=True)


def unit_of_bytes(most: float) -> tuple[float, str]:
    """The unit to state up to `most` bytes in."""
    return next((each for each in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if most >= each[0]), (1.0, "bytes"))


def unit_of_time(most: float) -> tuple[float, str]:
    """The unit to state up to `most` seconds in."""
    return next(
        (each for each in ((172_800.0, "days"), (7200.0, "h"), (120.0, "min")) if most >= each[0]),
        (1.0, "s") if most >= 1 else (1e-3, "ms"),
    )


def _accuracy_over(seeds: Seeds, x: NDArray[np.float64], title: str, unit: str) -> Markup:
    """`x`: at each round from 0, the untrained model, (rounds + 1,)."""
    drawing = Drawing()
    curve = accuracy_on_unseen(seeds)
    curve.draw(drawing, "unseen", SERIES[0], x[curve.rounds.astype(int)])
    return _finish(drawing, title, unit, "accuracy (%)", share=True)


def _running_total(seeds: Seeds, value: Callable[[SimulatedRound], float]) -> NDArray[np.float64]:
    rows = [[0.0, *accumulate(row)] for row in _equally_long(seeds, value)]
    return np.array(np.mean(rows, axis=0), float)


def _equally_long(seeds: Seeds, value: Callable[[SimulatedRound], float]) -> list[list[float]]:
    rounds = min(len(results.rounds) for results in seeds)
    return [[value(each) for each in results.rounds[:rounds]] for results in seeds]


def _steps(
    numbers: NDArray[np.int64], low: NDArray[np.float64], high: NDArray[np.float64], width: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Bars side by side as one outline: a hundred rounds are one shape instead of a hundred."""
    x = np.repeat(numbers, 2) + np.tile([-0.5 * width, 0.5 * width], len(numbers))
    return x, np.repeat(low, 2), np.repeat(high, 2)


def _finish(drawing: Drawing, title: str, x: str, y: str, *, share: bool = False) -> Markup:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    axes = drawing.axes
    axes.set_xlabel(x)
    axes.set_title(y, loc="left", fontsize=9, color=MUTED)
    if x == "round":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, steps=[1, 2, 5, 10]))
    if share:
        axes.set_ylim(-0.02, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    if axes.get_legend() is None and len(axes.get_legend_handles_labels()[0]) > 1:
        drawing.legend()
    return drawing.svg(title)
