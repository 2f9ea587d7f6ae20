"""FedRep (Collins et al. 2021, "Exploiting Shared Representations for Personalized Federated Learning",
arXiv:2102.07078).
"""

from __future__ import annotations

from common.algorithms.fedper import FedPer, PersonalPart
from common.models.acoustic import HEAD


class HeadThenBodyPart(PersonalPart):
    """Trains the head alone for `recipe.head_epochs`, then the body alone for `recipe.epochs`."""

    def before_step(self, step: int, steps: int) -> None:
        # However few the steps are and whatever their shares, the head has some and the body has some.
        head_steps = min(steps - 1, -(-steps * self.recipe.head_epochs // self.recipe.passes))
        if step in {0, head_steps}:
            for name, value in self.model.named_parameters():
                value.requires_grad_(name.startswith(HEAD) == (step < head_steps))


class FedRep(FedPer):
    """FedPer whose devices first fit their head to the shared body, then the body to that head."""

    part = HeadThenBodyPart
