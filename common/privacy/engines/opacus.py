"""Per-sample gradients by Opacus (Yousefpour et al. 2021): the reference, at several times the cost."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from common.errors import TrainingError
from common.privacy.engines.engine import Loss, trained


class OpacusEngine:
    """Opacus' hooks, on a copy of the model, for they leave traces on it."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        # Opacus takes as long to import as torch.
        from opacus.validators import ModuleValidator

        objections = ModuleValidator.validate(model, strict=False)
        if objections:
            raise TrainingError(
                "FA-7020", f"Opacus cannot work on this model: {objections[0]}", "Use the engine 'fused'."
            )
        self._model, self._loss = model, loss

    def rows(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """As `Engine`."""
        from opacus.grad_sample import GradSampleModule

        if len(labels) == 0:
            return torch.empty(0, sum(value.numel() for value in trained(self._model))), torch.empty(0)
        model = copy.deepcopy(self._model)
        for module in model.modules():
            if isinstance(module, nn.Conv1d | nn.Conv2d):
                module.register_forward_pre_hook(_contiguous)
        hooked = GradSampleModule(model, loss_reduction="sum")
        with torch.enable_grad():
            losses = self._loss(hooked(features), labels)
            losses.sum().backward()  # type: ignore[no-untyped-call]
        rows = [_grad_sample(value, len(labels)) for value in trained(model)]
        return torch.cat(rows, dim=1), losses.detach()


def _contiguous(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Opacus' rule for convolutions takes every image for contiguous (`unfold2d`)."""
    return tuple(value.contiguous() for value in inputs)


def _grad_sample(parameter: nn.Parameter, count: int) -> Tensor:
    """(B, values) of one parameter; zero if it had no part in the result."""
    samples = getattr(parameter, "grad_sample", None)
    return parameter.new_zeros(count, parameter.numel()) if samples is None else samples.flatten(1)
