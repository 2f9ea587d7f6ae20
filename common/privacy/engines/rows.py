"""Per-sample gradients as rows of one buffer, which layers fill while the gradient passes through them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Rows:
    """The gradients of B samples, each flat: (B, P), with the parameters' columns in their order.

    Args:
        parameters: those to be trained.
        count: B.
        buffer: flat memory of at least B * P values; whatever is in it is overwritten.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], count: int, buffer: Tensor) -> None:
        sizes = [value.numel() for value in parameters]
        self.count = count
        self.values = buffer[: count * sum(sizes)].view(count, sum(sizes))
        columns = torch.split(self.values, sizes, dim=1)
        self._columns = {id(value): part for value, part in zip(parameters, columns, strict=True)}
        self._missing = set(self._columns)

    def has(self, parameter: Tensor | None) -> bool:
        """Whether `parameter` is one of those to be trained."""
        return id(parameter) in self._columns

    def add(self, parameter: Tensor | None, gradients: Tensor) -> None:
        """Add gradients (B, ...) of `parameter`, if it is to be trained."""
        if not self.has(parameter):
            return
        columns = self._columns[id(parameter)]
        if self._is_first(parameter):
            columns.copy_(gradients.reshape(columns.shape))
        else:
            columns += gradients.reshape(columns.shape)

    def add_product(self, parameter: Tensor, left: Tensor, right: Tensor) -> None:
        """Add the matrix products (B, n, m) of left (B, n, k) and right (B, k, m)."""
        columns = self._columns[id(parameter)]
        place = columns.view(self.count, left.shape[1], right.shape[2])
        place.baddbmm_(left, right, beta=0 if self._is_first(parameter) else 1)

    def finish(self) -> Tensor:
        """All of them, (B, P); those of parameters that had no part in the result are zero."""
        for missing in self._missing:
            self._columns[missing].zero_()
        return self.values

    def _is_first(self, parameter: Tensor | None) -> bool:
        first = id(parameter) in self._missing
        self._missing.discard(id(parameter))
        return first
