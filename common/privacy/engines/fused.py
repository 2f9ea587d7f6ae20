"""Per-sample gradients in one backward pass, at about the cost of a plain step."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from common.privacy.engines.engine import Loss, trained
from common.privacy.engines.functorch import FunctorchEngine
from common.privacy.engines.layers import LAYERS
from common.privacy.engines.rows import Rows

logger = logging.getLogger(__name__)


class FusedEngine:
    """Puts the layers of `LAYERS` in the place of torch's own, for one pass through the model.

    The model itself is not changed: what is caught is its calls of torch's functions, so it matters neither
    which module makes a call nor how often a layer is used. A parameter that is used in any other way shows
    by the gradient that autograd still finds for it. Then the whole model goes to `FunctorchEngine`, for
    good: a first dimension that is not that of samples may be as long as theirs by chance, but not in batches
    of two sizes.
    """

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        self._model, self._loss = model, loss
        self._other_layers = FunctorchEngine(model, loss)
        self._buffer = torch.empty(0)

    def rows(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """As `Engine`."""
        if self._model in _FOR_FUNCTORCH:
            return self._other_layers.rows(features, labels)
        parameters, count = trained(self._model), len(labels)
        wanted = count * sum(value.numel() for value in parameters)
        if wanted > len(self._buffer):
            self._buffer = torch.empty(wanted)
        rows = Rows(parameters, count, self._buffer)
        if count == 0:
            return rows.values, torch.empty(0)
        with torch.enable_grad():
            with _OwnLayers(rows):
                losses = self._loss(self._model(features), labels)
            total = losses.sum()
        if total.requires_grad:
            # A layer of ours answers with no gradient for its parameters: it has put it into the rows.
            left = torch.autograd.grad(total, parameters, allow_unused=True)
            if any(gradient is not None for gradient in left):
                logger.info("not every layer has a rule of its own: torch.func makes the gradients, slower")
                _FOR_FUNCTORCH.add(self._model)
                return self._other_layers.rows(features, labels)
        return rows.finish(), losses.detach()


_FOR_FUNCTORCH: WeakSet[nn.Module] = WeakSet()


class _OwnLayers(TorchFunctionMode):
    """Catches calls of torch's functions with a parameter that is to be trained."""

    def __init__(self, rows: Rows) -> None:
        super().__init__()
        self._rows = rows

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        arguments: tuple[Any, ...] = (),
        options: Mapping[str, Any] | None = None,
    ) -> Any:
        options, layer = options or {}, LAYERS.get(function)
        if layer is None:
            return function(*arguments, **options)
        values = (*arguments, *options.values())
        samples = values[0].shape[0] if values[0].dim() else 0
        if samples == self._rows.count and any(self._rows.has(value) for value in values[1:]):
            return layer(self._rows, *arguments, **options)
        return function(*arguments, **options)
