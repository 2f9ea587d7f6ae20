"""The results of an evaluation, for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import median

from rich.console import Console
from rich.table import Table
from rich.text import Text

from common.evaluation.conditions import CLEAN
from common.evaluation.counts import Answers, Share
from common.evaluation.detection import Point
from common.evaluation.intervals import Interval
from common.log import printable
from fedaudio.evaluation.results import ClipResults, latency_at
from fedaudio.evaluation.trial import Listened

WIDEST_CONFUSION = 20
"""Labels up to which a confusion matrix is printed; a picture and JSON have any number."""


def print_clips(console: Console, results: ClipResults) -> None:
    """Accuracy, labels, confusion, groups, and conditions if there is more than one."""
    clean = results.answers[CLEAN.name]
    if results.tried.extra:
        console.print(_line(f"Left out, for the model has no such label: {', '.join(results.tried.extra)}."))
    if results.tried.missing:
        console.print(_line(f"No clip has the label: {', '.join(results.tried.missing)}."))
    for file, reason in results.damaged:
        console.print(_line(f"Left out: {file}: {reason}"))
    console.print(_line(f"Accuracy {_percent(clean.accuracy)} of {clean.accuracy.trials} clips."))
    console.print(_labels(clean))
    if len(clean.labels) <= WIDEST_CONFUSION:
        console.print(_confusion(clean))
    for line in _groups(clean, results.split):
        console.print(_line(line))
    if len(results.answers) > 1:
        console.print(_conditions(results.answers))


def print_listening(console: Console, listened: Listened) -> None:
    """Misses and false accepts at the release's trigger and at the threshold for the rate wanted."""
    shipped, chosen = listened.shipped, listened.chosen
    for file, reason in listened.left_out:
        console.print(_line(f"Not heard to its end: {file}: {reason}"))
    if listened.own_words:
        console.print(
            _line(
                f"Negatives have labels of the model: {', '.join(listened.own_words)}. If these words are "
                "said in them, to hear them is no false accept, and the figures below are wrong."
            )
        )
    console.print(
        _line(
            f"Continuous sound: {shipped.hits.words} words in noise at an SNR of {listened.snr_db:g} dB; "
            f"{sum(shipped.hours.values()):.2f} h without words."
        )
    )
    points = {"the model's trigger": shipped}
    if chosen is not None:
        points[f"at {listened.wanted:g} an hour"] = chosen
    table = Table("", "threshold", "words missed", "false accepts an hour", "latency median, p90")
    for name, point in points.items():
        table.add_row(name, *_operating(point))
    console.print(table)
    console.print(_by_sound(points))
    if chosen is None:
        least = min(listened.points, key=lambda point: point.accepts_per_hour)
        console.print(
            _line(
                f"No threshold has {listened.wanted:g} false accepts an hour or fewer: the highest tried "
                f"still has {least.accepts_per_hour:.3g}, and misses {_percent(least.false_rejects)}."
            )
        )
    for point in points.values():
        console.print(_line(_where(point)))


def _by_sound(points: Mapping[str, Point]) -> Table:
    """False accepts an hour of each sound by itself: those together depend on how much there is of each."""
    table = Table("false accepts an hour", "hours", *points)
    for sound, hours in next(iter(points.values())).hours.items():
        rates = (point.rates[sound] for point in points.values())
        table.add_row(sound, f"{hours:.2f}", *(_per_hour(rate.per_hour, rate.interval) for rate in rates))
    return table


def _per_hour(rate: float, interval: Interval) -> str:
    return f"{rate:.3g} [{interval.low:.2g}, {interval.high:.2g}]"


def _operating(point: Point) -> tuple[str, ...]:
    rate, latency = _per_hour(point.accepts_per_hour, point.accepts_interval), latency_at(point)
    after = "–" if latency is None else f"{latency[0]:.2f} s, {latency[1]:.2f} s"
    odds = f"{point.threshold:.4f}" if point.threshold < 0.9999 else f"1 - {1 - point.threshold:.1e}"
    return odds, _percent(point.false_rejects), rate, after


def _where(point: Point) -> str:
    hits = point.hits
    return (
        f"Threshold {point.threshold:.6g}: where words were said, "
        f"{hits.confused} of another label, {hits.repeated} repeated, {hits.spurious} between words."
    )


def _labels(answers: Answers) -> Table:
    table = Table("label", "clips", "recall", "precision")
    for place, label in enumerate(answers.labels):
        recall, precision = answers.recall(place), answers.precision(place)
        if recall.trials or precision.trials:
            shares = (_percent(recall, bare=True), _percent(precision, bare=True))
            table.add_row(printable(label), str(recall.trials), *shares)
    return table


def _confusion(answers: Answers) -> Table:
    """What was said (row) and what it was taken for (column); a column has the number of its label."""
    table = Table("", *map(str, range(1, len(answers.labels) + 1)), padding=(0, 0, 0, 1))
    for place, (label, row) in enumerate(zip(answers.labels, answers.confusion, strict=True)):
        if row.any():
            table.add_row(f"{place + 1} {printable(label)}", *(str(count) if count else "·" for count in row))
    return table


def _groups(answers: Answers, split: str) -> Iterator[str]:
    shares = answers.by_group
    if len(shares) < 2:
        return
    values = sorted(share.value or 0.0 for share in shares.values())
    worst, share = next(iter(shares.items()))
    yield (
        f"By {split}, {len(shares)} of them: least {values[0]:.1%}, median {median(values):.1%}, most "
        f"{values[-1]:.1%}. The worst is {worst}: {_percent(share)} of {share.trials} clips."
    )


def _conditions(answers: Mapping[str, Answers]) -> Table:
    clean = answers[CLEAN.name].accuracy.value or 0.0
    table = Table("condition", "accuracy", "points lost")
    for name, found in answers.items():
        lost = 100 * (clean - (found.accuracy.value or 0.0))
        table.add_row(name, _percent(found.accuracy), "" if name == CLEAN.name else f"{lost:+.1f}")
    return table


def _percent(share: Share, *, bare: bool = False) -> str:
    """A share with its interval."""
    if share.value is None:
        return "–"
    low, high = share.interval
    return f"{share.value:.1%}" if bare else f"{share.value:.1%} [{100 * low:.1f}, {100 * high:.1f}]"


def _line(text: str) -> Text:
    """Names come from data sets: they are no markup, and no control sequences."""
    return Text(printable(text))
