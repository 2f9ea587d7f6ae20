"""What DP-SGD has cost: epsilon by Renyi differential privacy (Mironov 2017; Mironov et al. 2019), from
Opacus."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from opacus.accountants import RDPAccountant
from opacus.accountants.analysis import rdp

from common.errors import TrainingError
from common.protocol.answer import PrivacySpent
from common.protocol.plan import Privacy

ORDERS = RDPAccountant.DEFAULT_ALPHAS

LEAST_NOISE = 0.01
"""Noise multiplier at which epsilon is in the millions; far below it the series Opacus sums never ends."""


def privacy_spent(privacy: Privacy, sampling_rate: float, steps: int) -> PrivacySpent:
    """The cost of `steps` steps, each on a Poisson sample of the clips at `sampling_rate` (0..1].

    The number of clips is taken as public: a device's report states it.

    Raises:
        TrainingError: FA-7005, the noise is below `LEAST_NOISE`.
    """
    if privacy.noise_multiplier < LEAST_NOISE:
        raise TrainingError(
            "FA-7005",
            f"A noise multiplier of {privacy.noise_multiplier:g} protects nothing.",
            "Raise privacy.noise_multiplier; 1.0 is a usual value.",
        )
    epsilon = _epsilon(privacy, sampling_rate, steps) if steps else 0.0
    return PrivacySpent(
        epsilon=max(0.0, epsilon),
        delta=privacy.delta,
        accountant="rdp",
        noise_multiplier=privacy.noise_multiplier,
        sampling_rate=sampling_rate,
        steps=steps,
    )


def compose(spent: Sequence[PrivacySpent], delta: float) -> PrivacySpent:
    """The cost of several trainings on the same clips together: their Renyi divergences add up.

    Args:
        spent: at least one; the last gives the noise multiplier that is named in the result.
    """
    last = spent[-1]
    total = sum(
        (
            np.asarray(
                rdp.compute_rdp(
                    q=one.sampling_rate, noise_multiplier=one.noise_multiplier, steps=one.steps, orders=ORDERS
                )
            )
            for one in spent
            if one.steps
        ),
        start=np.zeros(len(ORDERS)),
    )
    return last.model_copy(
        update={
            "epsilon": max(0.0, _convert(total, delta)) if total.any() else 0.0,
            "delta": delta,
            "sampling_rate": max(one.sampling_rate for one in spent),
            "steps": sum(one.steps for one in spent),
        }
    )


def _epsilon(privacy: Privacy, sampling_rate: float, steps: int) -> float:
    divergences = rdp.compute_rdp(
        q=sampling_rate, noise_multiplier=privacy.noise_multiplier, steps=steps, orders=ORDERS
    )
    return _convert(divergences, privacy.delta)


def _convert(divergences: npt.ArrayLike, delta: float) -> float:
    """Epsilon at `delta` of Renyi divergences at `ORDERS`."""
    with warnings.catch_warnings():
        # It warns where the best order is the first or last one: epsilon is then loose, never too small.
        warnings.simplefilter("ignore")
        epsilon, _ = rdp.get_privacy_spent(orders=ORDERS, rdp=divergences, delta=delta)
    return float(epsilon)
