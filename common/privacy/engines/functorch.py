"""Per-sample gradients by torch.func, for any layer that takes one sample as well as many."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from common.privacy.engines.engine import Loss, trained


class FunctorchEngine:
    """Each sample goes through the model alone (`vmap` of `grad`), so samples cannot mix."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        self._model, self._loss = model, loss

    def rows(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """As `Engine`."""
        parameters = {
            name: value.detach() for name, value in self._model.named_parameters() if value.requires_grad
        }
        if len(labels) == 0:
            columns = sum(value.numel() for value in trained(self._model))
            return torch.empty(0, columns), torch.empty(0)
        gradients, losses = vmap(
            grad_and_value(self._loss_of_one), in_dims=(None, 0, 0), randomness="different"
        )(parameters, features, labels)
        return torch.cat([value.flatten(1) for value in gradients.values()], dim=1), losses.detach()

    def _loss_of_one(self, weights: dict[str, Tensor], sample: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(self._model, weights, (sample.unsqueeze(0),))
        return self._loss(logits, label.unsqueeze(0)).squeeze(0)
