"""A free rider that hides: it sends what the others achieved in the round before."""

from __future__ import annotations

import numpy as np

from simulations.attacks.attack import Attack, Rows, Scene


class Stale(Attack):
    """Sends `strength` times the model's last step again ("delta weights", Lin et al. 2019,
    arXiv:1911.12560).

    In the first round, which nothing went before, that is zeros.
    """

    def forge(self, scene: Scene, rng: np.random.Generator) -> Rows:
        step = np.float32(self.strength) * scene.last_step
        return np.repeat(step[None], len(scene.own), axis=0)
