"""Inner product manipulation: a step against the direction in which the honest devices go."""

from __future__ import annotations

import numpy as np

from simulations.attacks.attack import Attack, Rows, Scene


class Ipm(Attack):
    """-epsilon times the mean of the honest updates (Xie et al. 2020, arXiv:1903.03936).

    The strength is epsilon. A large one turns a plain mean round: a share b of attackers needs more than
    (1 - b) / b. One below 1 hides among the honest updates, against rules that compare them.
    """

    usual_strength = 10.0

    def forge(self, scene: Scene, rng: np.random.Generator) -> Rows:
        known = scene.honest if len(scene.honest) else scene.own
        row = -np.float32(self.strength) * known.mean(axis=0)
        return np.repeat(row[None], len(scene.own), axis=0)
