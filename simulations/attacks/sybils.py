"""Sybils: one attacker under many identities, all of which pull the same way."""

from __future__ import annotations

import numpy as np

from simulations.attacks.attack import Rows, Scene
from simulations.attacks.label_flip import LabelFlip

DIFFERENCE = 0.01
"""Of the identities' updates from one another, as a share of their length."""


class Sybils(LabelFlip):
    """Wrong labels (`LabelFlip`), and all identities send one and the same update (Fung et al. 2020,
    arXiv:1808.04866): `strength` times the mean of what they learnt.

    Each adds noise of its own, a hundredth as long, so that no two updates are equal; yet they are far nearer
    to each other than honest ones, which is what rules that seek near neighbours fall for.
    """

    def forge(self, scene: Scene, rng: np.random.Generator) -> Rows:
        row = np.float32(self.strength) * scene.own.mean(axis=0)
        sigma = DIFFERENCE * float(np.linalg.norm(row)) / np.sqrt(row.size)
        rows: Rows = row + np.float32(sigma) * rng.standard_normal(scene.own.shape, np.float32)
        return rows
