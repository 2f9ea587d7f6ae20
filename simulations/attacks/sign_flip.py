"""Sign flip: the opposite of what the attacker would send if it were honest."""

from __future__ import annotations

import numpy as np

from simulations.attacks.attack import Attack, Rows, Scene


class SignFlip(Attack):
    """-strength times the attacker's own update (Li et al. 2019, arXiv:1811.03761).

    The attacker need not know any other. Four is their choice: a fifth of the devices then takes away all
    that the others add to a plain mean.
    """

    usual_strength = 4.0

    def forge(self, scene: Scene, rng: np.random.Generator) -> Rows:
        return -np.float32(self.strength) * scene.own
