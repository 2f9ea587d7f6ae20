"""Norm clipping (Sun et al. 2019, "Can You Really Backdoor Federated Learning?", arXiv:1911.07963) to a limit
that follows the fleet: a multiple of the median of the norms, which a minority cannot move far.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from common.protocol.tensors import Row, Weights
from fl_server.rules.rule import Rule


def usual_norm(norms: Sequence[float]) -> float:
    """The median of the norms of a round's updates; of an even number the lower of both middles, so that of
    two devices neither can raise it on its own.
    """
    return float(np.sort(norms)[(len(norms) - 1) // 2])


def clip_norms(rule: Rule, factor: float, norms: Sequence[float]) -> Rule:
    """`rule`, with no update longer than `factor` times the median of `norms`.

    Args:
        norms: `usual_norm` of each of the earlier rounds. Where there is none but zeros, the limit
            follows from the norms of this very round.
    """
    known = [norm for norm in norms if norm > 0]
    return NormClipping(rule, factor * float(np.median(known))) if known else OwnNormClipping(rule, factor)


class NormClipping:
    """Hands updates on to `rule` as they come, scaled down to `limit` if they are longer."""

    def __init__(self, rule: Rule, limit: float) -> None:
        self._rule, self._limit = rule, limit

    @property
    def count(self) -> int:
        """As `Rule`."""
        return self._rule.count

    def fold(self, row: Row, weight: int, *, device: str, norm: float) -> None:
        """As `Rule`."""
        if norm > self._limit:
            row, norm = row * np.float32(self._limit / norm), self._limit
        self._rule.fold(row, weight, device=device, norm=norm)

    def result(self) -> Weights:
        """As `Rule`."""
        return self._rule.result()


class OwnNormClipping:
    """Holds all updates back until the median of their own norms is known: `factor` times it is the limit."""

    def __init__(self, rule: Rule, factor: float) -> None:
        self._rule, self._factor = rule, factor
        self._held: list[tuple[Row, int, str, float]] = []

    @property
    def count(self) -> int:
        """As `Rule`."""
        return len(self._held)

    def fold(self, row: Row, weight: int, *, device: str, norm: float) -> None:
        """As `Rule`."""
        self._held.append((row.copy(), weight, device, norm))

    def result(self) -> Weights:
        """As `Rule`."""
        if not self._held:
            raise ZeroDivisionError("no update was folded in")
        limit = self._factor * usual_norm([norm for *_, norm in self._held])
        clipped = NormClipping(self._rule, limit)
        while self._held:  # a rule that keeps updates takes up the memory that is given back here
            row, weight, device, norm = self._held.pop()
            clipped.fold(row, weight, device=device, norm=norm)
        return clipped.result()
