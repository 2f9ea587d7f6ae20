"""The results of an evaluation as pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from common.evaluation.conditions import CLEAN
from common.evaluation.counts import Answers
from common.evaluation.detection import det_curve
from common.pictures import BLUE, GREY, ORANGE, as_written, begin_figure, save_figure
from fedaudio.evaluation.results import ClipResults
from fedaudio.evaluation.trial import Listened

_NUMBERED = 20
"""Labels up to which the cells of a confusion matrix carry numbers."""


Draw = Callable[[Path], Path]
"""Writes a picture to a file, which it gives back.

Raises:
    TrainingError: FA-7061, matplotlib is not installed.
    StorageError: FA-8001.
"""


def pictures_of(results: ClipResults, listened: Listened | None, folder: Path) -> dict[Path, Draw]:
    """The pictures that there are to draw: confusion.png, robustness.png if there is more than one condition,
    and det.png of what was listened to."""
    pictures: dict[Path, Draw] = {folder / "confusion.png": partial(_confusion, results.answers[CLEAN.name])}
    if len(results.answers) > 1:
        pictures[folder / "robustness.png"] = partial(_conditions, results.answers)
    if listened is not None:
        pictures[folder / "det.png"] = partial(_listening, listened)
    return pictures


def _listening(listened: Listened, path: Path) -> Path:
    """What is missed against false accepts an hour, at every threshold worth choosing."""
    figure = begin_figure(6.4, 4.4)
    axes = figure.subplots()
    curve = det_curve(listened.points)
    hours = sum(listened.shipped.hours.values())
    # A rate that was not seen even once has no place on an axis of logarithms but below one in all.
    least = 0.5 / hours
    rates = [max(least, point.accepts_per_hour) for point in curve]
    missed = [100 * (point.false_rejects.value or 0.0) for point in curve]
    low, high = zip(*(point.false_rejects.interval for point in curve), strict=True)
    axes.fill_between(rates, 100 * np.array(low), 100 * np.array(high), step="post", color=BLUE, alpha=0.15)
    axes.step(rates, missed, where="post", color=BLUE, marker="o", markersize=3, label="thresholds")
    axes.axvline(listened.wanted or least, color=GREY, linewidth=1, linestyle=":")
    for point, name, mark in (
        (listened.shipped, "the model's trigger", "s"),
        (listened.chosen, "chosen", "o"),
    ):
        if point is not None:
            across = max(least, point.accepts_per_hour)
            down = 100 * (point.false_rejects.value or 0.0)
            axes.plot([across], [down], mark, color=ORANGE, fillstyle="none", label=name)
    axes.set(xscale="log", xlabel=f"false accepts an hour, of {hours:.2f} hours", ylabel="words missed, %")
    axes.set_ylim(bottom=0)
    axes.set_title(f"SNR {listened.snr_db:g} dB, {listened.shipped.hits.words} words", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return save_figure(figure, path)


def _confusion(answers: Answers, path: Path) -> Path:
    table, count = answers.confusion, len(answers.labels)
    side = max(4.0, 1.5 + 0.42 * min(count, 60))
    figure = begin_figure(side, side)
    axes = figure.subplots()
    shares = table / np.maximum(1, table.sum(axis=1, keepdims=True))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    labels = [as_written(label) for label in answers.labels]
    axes.set_xticks(range(count), labels, rotation=90)
    axes.set_yticks(range(count), labels)
    axes.set(xlabel="heard as", ylabel="said")
    if count <= _NUMBERED:
        for (row, column), clips in np.ndenumerate(table):
            if clips:
                ink = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, str(clips), ha="center", va="center", color=ink, fontsize=8)
    return save_figure(figure, path)


def _conditions(answers: Mapping[str, Answers], path: Path) -> Path:
    figure = begin_figure(6.4, 1.2 + 0.27 * len(answers))
    axes = figure.subplots()
    shares = [found.accuracy for found in answers.values()]
    values = np.array([100 * (share.value or 0.0) for share in shares])
    edges = 100 * np.array([share.interval for share in shares]).T
    places = np.arange(len(shares))
    axes.barh(places, values, color=BLUE, xerr=np.abs(edges - values), ecolor=GREY, capsize=2)
    axes.set_yticks(places, list(answers))
    axes.invert_yaxis()
    axes.set(xlim=(0, 100), xlabel="accuracy, %")
    axes.grid(axis="x", alpha=0.3)
    return save_figure(figure, path)
