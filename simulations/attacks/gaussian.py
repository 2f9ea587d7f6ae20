"""Noise in place of an update."""

from __future__ import annotations

import numpy as np

from simulations.attacks.attack import Attack, Rows, Scene


class Gaussian(Attack):
    """Every attacker sends its own independent Gaussian noise of mean zero (Blanchard et al. 2017,
    arXiv:1703.02757).

    The strength is the standard deviation of a value, in root mean squares of the honest updates' values,
    so an update is about `strength` times as long as an honest one. The paper's own 200, whatever the
    honest values, would be refused for its length alone.
    """

    usual_strength = 10.0

    def forge(self, scene: Scene, rng: np.random.Generator) -> Rows:
        like = scene.honest if len(scene.honest) else scene.own
        sigma = self.strength * np.sqrt(np.square(like, dtype=np.float64).mean())
        return np.float32(sigma) * rng.standard_normal(scene.own.shape, np.float32)
