"""Confidence intervals of what was counted. Small counts are the rule here, so none of them is a normal
approximation."""

from __future__ import annotations

import math
from typing import NamedTuple

from scipy.special import gammaincinv, ndtri

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """Lowest and highest value that the count does not speak against."""

    low: float
    high: float


def wilson(hits: int, trials: int, confidence: float = CONFIDENCE) -> Interval:
    """Score interval of a share, `hits` of `trials` (Wilson 1927); [0, 1] without trials."""
    if trials == 0:
        return Interval(0.0, 1.0)
    z = float(ndtri((1 + confidence) / 2))
    share, weight = hits / trials, z * z / trials
    middle = (share + weight / 2) / (1 + weight)
    half = math.sqrt(share * (1 - share) * weight + weight * weight / 4) / (1 + weight)
    # Rounding must not put a share of nothing or of all outside.
    return Interval(middle - half if hits else 0.0, middle + half if hits < trials else 1.0)


def garwood(events: int, exposure: float, confidence: float = CONFIDENCE) -> Interval:
    """Exact interval of a Poisson rate (Garwood 1936): events per unit of exposure, `events` in `exposure`.

    Without events the upper end is 3.69 / `exposure` at 95 %. Without exposure the rate may be anything.
    """
    if exposure <= 0:
        return Interval(0.0, math.inf)
    tail = (1 - confidence) / 2
    low = float(gammaincinv(events, tail)) if events else 0.0
    return Interval(low / exposure, float(gammaincinv(events + 1, 1 - tail)) / exposure)
