"""A free rider that does no work and says so: an update of zeros."""

from __future__ import annotations

import numpy as np

from simulations.attacks.attack import Attack, Rows, Scene


class Zero(Attack):
    """Sends the model back as it came (Lin et al. 2019, arXiv:1911.12560); the strength means nothing."""

    def forge(self, scene: Scene, rng: np.random.Generator) -> Rows:
        return np.zeros_like(scene.own)
