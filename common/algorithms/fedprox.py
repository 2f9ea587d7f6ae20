"""FedProx (Li et al. 2020, "Federated Optimization in Heterogeneous Networks", arXiv:1812.06127)."""

from __future__ import annotations

import torch

from common.algorithms.algorithm import Algorithm, Part


class ProximalPart(Part):
    """Adds mu/2 |w - start|^2 to the loss, with mu = `recipe.proximal`."""

    @torch.no_grad()
    def correct_gradients(self) -> None:
        for value, origin in zip(self.model.parameters(), self.start, strict=True):
            if value.grad is not None:
                value.grad.add_(value - origin, alpha=self.recipe.proximal)


class FedProx(Algorithm):
    """FedAvg whose devices are held back to where they started."""

    part = ProximalPart
