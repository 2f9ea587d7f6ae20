"""The seam: what takes updates in as they come and makes one of them."""

from __future__ import annotations

from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from common.protocol.tensors import Row, Weights

Rows: TypeAlias = NDArray[np.float32]
"""Updates of a round, one a row, (devices, values)."""


class Rule(Protocol):
    """An aggregation rule at work in one round.

    Its result depends on which updates were folded in and not on the order in which they came.
    """

    @property
    def count(self) -> int:
        """Updates folded in."""
        ...

    def fold(self, row: Row, weight: int, *, device: str, norm: float) -> None:
        """Take an update in.

        Args:
            row: all its values; a view into memory that is used again once this returns.
            weight: of the update in the mean; rules that compare updates count each as one.
            device: who sent it; no device comes twice.
            norm: L2 norm of `row`.

        Raises:
            OverflowError: the sum could pass its bound; nothing has been taken in.
        """
        ...

    def result(self) -> Weights:
        """The aggregate, by the tensors' names. The rule is used up.

        Raises:
            ZeroDivisionError: nothing was folded in, or nothing with a weight.
            CoordinatorError: FA-5114 too few updates for the rule, FA-5115 none that "trust" would trust, or
                nothing to trust by.
        """
        ...
