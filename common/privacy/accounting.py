"""What DP-SGD has cost: epsilon by Renyi differential privacy (Mironov 2017; Mironov et al. 2019), from
Opacus."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from common.errors import TrainingError
from common.protocol.answer import PrivacySpent
from common.protocol.plan import Privacy

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
    return PrivacySpent(
        epsilon=epsilon_of({(sampling_rate, privacy.noise_multiplier): steps}, privacy.delta),
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
    steps: Counter[tuple[float, float]] = Counter()
    for one in spent:
        steps[one.sampling_rate, one.noise_multiplier] += one.steps
    return spent[-1].model_copy(
        update={
            "epsilon": epsilon_of(steps, delta),
            "delta": delta,
            "sampling_rate": max(one.sampling_rate for one in spent),
            "steps": sum(steps.values()),
        }
    )


def epsilon_of(steps: Mapping[tuple[float, float], int], delta: float) -> float:
    """Epsilon at `delta` of so many steps at each (sampling rate, noise multiplier); 0 of none."""
    # Opacus costs as long to import as torch, and only private training needs it.
    from opacus.accountants import RDPAccountant
    from opacus.accountants.analysis import rdp

    if not any(steps.values()):
        return 0.0
    orders = RDPAccountant.DEFAULT_ALPHAS
    divergences = sum(
        np.asarray(rdp.compute_rdp(q=rate, noise_multiplier=noise, steps=count, orders=orders))
        for (rate, noise), count in steps.items()
        if count
    )
    with warnings.catch_warnings():
        # It warns where the best order is the first or last one: epsilon is then loose, never too small.
        warnings.simplefilter("ignore")
        epsilon, _ = rdp.get_privacy_spent(orders=orders, rdp=divergences, delta=delta)
    return max(0.0, float(epsilon))
