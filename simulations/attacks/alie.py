"""A Little Is Enough: all values a little off, and too little to stand out."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from simulations.attacks.attack import Attack, Rows, Scene


class Alie(Attack):
    """Mean of the honest updates plus z of their standard deviations, value by value (Baruch et al. 2019,
    arXiv:1902.06156).

    The strength is z; without one it is the paper's, `largest_z`. With fewer than two honest updates there
    is no deviation, and the attackers do as if they were honest.
    """

    def __init__(self, strength: float | None = None) -> None:
        super().__init__(strength)
        self._z = strength

    def forge(self, scene: Scene, rng: np.random.Generator) -> Rows:
        honest, attackers = len(scene.honest), len(scene.own)
        if honest < 2:
            return scene.own
        z = largest_z(honest + attackers, attackers) if self._z is None else self._z
        row = scene.honest.mean(axis=0) + np.float32(z) * scene.honest.std(axis=0, ddof=1)
        return np.repeat(row[None], attackers, axis=0)


def largest_z(devices: int, attackers: int) -> float:
    """The z at which just enough honest devices lie further out to make a majority with the attackers.

    They need s = floor(n/2 + 1) - m of the n - m honest ones, so z is where the normal distribution reaches
    (n - m - s) / (n - m); never below 0, and where the attackers are a majority themselves, as if they
    needed one.
    """
    honest = devices - attackers
    supporters = max(1, devices // 2 + 1 - attackers)
    share = (honest - supporters) / honest
    return max(0.0, NormalDist().inv_cdf(share)) if share > 0 else 0.0
