"""The results of an evaluation, as values and for machines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from common.evaluation.conditions import CLEAN
from common.evaluation.counts import Answers, Share
from common.evaluation.detection import Point
from common.evaluation.intervals import Interval
from fedaudio.evaluation.naming import Tried
from fedaudio.evaluation.trial import Listened


@dataclass(frozen=True)
class ClipResults:
    """What a release called clips.

    Args:
        answers: by condition; the clips as recorded are always there.
        damaged: file and reason, for each clip that could not be read.
        split: what the clips are grouped by.
    """

    answers: Mapping[str, Answers]
    tried: Tried
    damaged: tuple[tuple[str, str], ...]
    split: str


def latency_at(point: Point) -> tuple[float, float] | None:
    """Median and 90th percentile of the latencies in seconds; None if no word was heard."""
    if not point.hits.latencies:
        return None
    middle, late = np.percentile(point.hits.latencies, (50, 90))
    return float(middle), float(late)


def clips_document(results: ClipResults) -> dict[str, object]:
    """What JSON says of clips."""
    clean = results.answers[CLEAN.name]
    return {
        "accuracy": share_document(clean.accuracy),
        "labels": {
            label: {
                "recall": share_document(clean.recall(place)),
                "precision": share_document(clean.precision(place)),
            }
            for place, label in enumerate(clean.labels)
        },
        "confusion": clean.confusion.tolist(),
        "split": results.split,
        "groups": {name: share_document(share) for name, share in clean.by_group.items()},
        "conditions": {name: share_document(found.accuracy) for name, found in results.answers.items()},
        "extra_labels": results.tried.extra,
        "missing_labels": results.tried.missing,
        "damaged": [{"file": file, "reason": reason} for file, reason in results.damaged],
    }


def listening_document(listened: Listened) -> dict[str, object]:
    """What JSON says of listening."""
    return {
        "snr_db": listened.snr_db,
        "words": listened.shipped.hits.words,
        "hours": listened.shipped.hours,
        "left_out": [{"file": file, "reason": reason} for file, reason in listened.left_out],
        "negatives_with_own_words": listened.own_words,
        "wanted_false_accepts_per_hour": listened.wanted,
        "shipped": _point_document(listened.shipped),
        "chosen": None if listened.chosen is None else _point_document(listened.chosen),
        "sweep": [_point_document(point) for point in listened.points],
    }


def share_document(share: Share) -> dict[str, object]:
    """A share with its counts and its interval."""
    low, high = share.interval
    return {"share": share.value, "hits": share.hits, "trials": share.trials, "low": low, "high": high}


def _point_document(point: Point) -> dict[str, object]:
    latency = latency_at(point)
    return {
        "threshold": point.threshold,
        "false_rejects": share_document(point.false_rejects),
        "false_accepts": point.accepts,
        "false_accepts_per_hour": _rate_document(point.accepts_per_hour, point.accepts_interval),
        "by_sound": {
            name: _rate_document(rate.per_hour, rate.interval) for name, rate in point.rates.items()
        },
        "latency_seconds": None if latency is None else {"median": latency[0], "p90": latency[1]},
        "confused": point.hits.confused,
        "repeated": point.hits.repeated,
        "spurious": point.hits.spurious,
    }


def _rate_document(rate: float, interval: Interval) -> dict[str, object]:
    return {"rate": rate, "low": interval.low, "high": interval.high}
