"""Figures of the last version, by device, by speaker and by label; and of the time it all took."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from simulations.reports.drawing import INK, LINE, MUTED, PAPER, SERIES, Drawing, name_of
from simulations.reports.page import Markup
from simulations.results import SimulationResults
from simulations.sweep_results import Spread

Seeds = Sequence[SimulationResults]

NAMED_DEVICES = 40
"""Of more devices than this, how many there are at each accuracy is shown in place of each one."""

LABELS = 36
"""Of more labels than this, only those with the most errors are shown."""


def device_accuracy(seeds: Seeds) -> Markup:
    """Of each device on the clips that it keeps: by its own model and by the shared one."""
    own, shared = _by_name(seeds, shared=False), _by_name(seeds, shared=True)
    if len(own) <= NAMED_DEVICES:
        drawing = _strip(own, shared)
    else:
        drawing = Drawing()
        bins = np.linspace(0, 1, 21).tolist()
        for name, values, colour in (("shared model", shared, MUTED), ("device's own model", own, SERIES[0])):
            if values:
                flat = [value for each in values.values() for value in each]
                label = name if shared else None
                drawing.axes.hist(flat, bins, color=colour, alpha=0.55, label=label, rwidth=0.92)
        drawing.axes.set_title("devices", loc="left", fontsize=9, color=MUTED)
    _as_shares(drawing)
    if shared:
        drawing.legend()
    return drawing.svg("Accuracy of each device")


def unseen_accuracy(seeds: Seeds) -> Markup:
    """On each unseen speaker; the line on a bar is the range over seeds."""
    values: dict[str, list[float]] = defaultdict(list)
    for results in seeds:
        for each in results.unseen:
            if each.clips:
                values[each.name].append(each.correct / each.clips)
    worst_first = sorted(values.items(), key=lambda pair: (-float(np.mean(pair[1])), pair[0]))[
        -NAMED_DEVICES:
    ]
    drawing = Drawing(height=0.8 + 0.27 * len(worst_first))
    for row, (_, found) in enumerate(worst_first):
        mean = float(np.mean(found))
        drawing.axes.barh(row, mean, color=SERIES[0], height=0.62)
        drawing.axes.plot([min(found), max(found)], [row, row], color=INK, linewidth=1)
        drawing.axes.annotate(
            f"{mean:.1%}", (max(found), row), (5, 0), textcoords="offset points", va="center", fontsize=8.5
        )
    _name_rows(drawing, [name for name, _ in worst_first])
    _as_shares(drawing)
    return drawing.svg("Accuracy on each unseen speaker")


def confusion(seeds: Seeds) -> tuple[Markup, int]:
    """What clips of each label were taken for, all seeds together; and how many labels are shown."""
    counts = np.sum([results.confusion for results in seeds], axis=0).reshape(len(seeds[0].labels), -1)
    errors = counts.sum(axis=1) - counts.diagonal()
    shown = np.sort(np.argsort(-errors, kind="stable")[:LABELS])
    labels, counts = [seeds[0].labels[index] for index in shown], counts[np.ix_(shown, shown)]
    side = max(4.0, 0.34 * len(labels))
    drawing = Drawing(height=0.8 + 0.8 * side, width=1.4 + side)
    _draw_matrix(drawing, labels, counts)
    return drawing.svg("Confusion matrix"), len(labels)


def time_budget(parts: Sequence[tuple[str, float]]) -> Markup:
    """Seconds that each part took, as one bar."""
    drawing = Drawing(height=1.25)
    total, start = sum(seconds for _, seconds in parts) or 1.0, 0.0
    for (name, seconds), colour in zip(parts, SERIES, strict=False):
        drawing.axes.barh(0, seconds / total, left=start, color=colour, label=name, height=0.5)
        start += seconds / total
    drawing.axes.set_yticks([])
    drawing.axes.grid(visible=False)
    _as_shares(drawing, "share of the workers' and the coordinator's time (%)")
    drawing.axes.set_xlim(0, 1)
    drawing.legend(columns=5)
    return drawing.svg("Where the time went")


def accuracy_of_cells(cells: Sequence[tuple[str, Spread]]) -> Markup:
    """Final accuracy of each cell of a sweep: each seed a dot, their mean a line."""
    drawing = Drawing(height=0.8 + 0.27 * len(cells))
    for row, (_, spread) in enumerate(reversed(cells)):
        drawing.axes.plot(
            spread.values, [row] * len(spread.values), "o", color=SERIES[0], alpha=0.5, markersize=5
        )
        drawing.axes.plot([spread.mean] * 2, [row - 0.32, row + 0.32], color=INK, linewidth=1.6)
    _name_rows(drawing, [label for label, _ in reversed(cells)], 44)
    _as_shares(drawing, limits=False)
    return drawing.svg("Final accuracy of each cell")


def _by_name(seeds: Seeds, *, shared: bool) -> dict[str, list[float]]:
    """Accuracies of each device that keeps clips, one for each seed."""
    values: dict[str, list[float]] = defaultdict(list)
    for results in seeds:
        for each in results.devices:
            correct = each.correct_shared if shared else each.correct
            if each.clips and correct is not None:
                values[each.device].append(correct / each.clips)
    return values


def _strip(own: dict[str, list[float]], shared: dict[str, list[float]]) -> Drawing:
    """A row for each device, the best at the top."""
    names = sorted(own, key=lambda name: (float(np.mean(own[name])), name))
    drawing = Drawing(height=0.9 + 0.2 * len(names))
    for row, name in enumerate(names):
        mean = float(np.mean(own[name]))
        if name in shared:
            before = float(np.mean(shared[name]))
            label = "shared model" if row == 0 else None
            drawing.axes.plot([before, mean], [row, row], color=LINE, linewidth=2, zorder=1)
            drawing.axes.plot(before, row, "o", color=MUTED, label=label, markersize=5)
        label = "device's own model" if row == 0 else None
        drawing.axes.plot(mean, row, "o", color=SERIES[0], label=label, markersize=5.5)
    _name_rows(drawing, names)
    return drawing


def _name_rows(drawing: Drawing, names: Iterable[str], most: int = 18) -> None:
    labels = [name_of(name, most) for name in names]
    drawing.axes.set_yticks(range(len(labels)), labels)
    drawing.axes.set_ylim(-0.6, len(labels) - 0.4)
    drawing.axes.grid(visible=False, axis="y")


def _as_shares(drawing: Drawing, title: str = "accuracy (%)", *, limits: bool = True) -> None:
    from matplotlib.ticker import PercentFormatter

    if limits:
        drawing.axes.set_xlim(-0.02, 1.02)
        drawing.axes.set_xticks(np.linspace(0, 1, 6))
    drawing.axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    drawing.axes.grid(visible=True, axis="x")
    drawing.axes.set_xlabel(title)


def _draw_matrix(drawing: Drawing, labels: Sequence[str], counts: NDArray[np.int64]) -> None:
    from matplotlib.patches import Rectangle

    axes, shares = drawing.axes, counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    for row, column in np.argwhere(counts):
        share = float(shares[row, column])
        colour = SERIES[0] if row == column else SERIES[1]
        axes.add_patch(
            Rectangle((column - 0.5, row - 0.5), 1, 1, color=colour, alpha=0.08 + 0.92 * share, lw=0)
        )
        axes.text(
            column,
            row,
            str(counts[row, column]),
            ha="center",
            va="center",
            fontsize=8,
            color=PAPER if share > 0.55 else INK,
        )
    ticks, names = range(len(labels)), [name_of(label, 14) for label in labels]
    axes.set_xticks(ticks, names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(ticks, names)
    axes.set(xlim=(-0.5, len(labels) - 0.5), ylim=(len(labels) - 0.5, -0.5), aspect="equal")
    axes.set(xlabel="taken for", ylabel="was")
    axes.tick_params(length=0)
    axes.grid(visible=False)
