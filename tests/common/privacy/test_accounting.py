from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import RDPAccountant
from scipy.optimize import brentq
from scipy.stats import norm

from common.errors import TrainingError
from common.privacy.accounting import privacy_spent
from common.protocol.plan import Privacy


@pytest.mark.parametrize(
    ("noise", "rate", "steps"), [(1.0, 0.064, 312), (0.7, 0.5, 10), (3.0, 1.0, 50), (1.5, 0.01, 1)]
)
def test_epsilon_is_that_of_the_rdp_accountant(noise: float, rate: float, steps: int) -> None:
    accountant = RDPAccountant()
    for _ in range(steps):
        accountant.step(noise_multiplier=noise, sample_rate=rate)
    spent = privacy_spent(Privacy(noise_multiplier=noise), rate, steps)
    assert spent.epsilon == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-9)
    assert (spent.noise_multiplier, spent.sampling_rate, spent.steps) == (noise, rate, steps)
    assert (spent.unit, spent.accountant, spent.delta) == ("one clip", "rdp", 1e-5)


@pytest.mark.parametrize("noise", [1.0, 2.0, 8.0])
def test_epsilon_is_never_below_the_exact_one_of_the_gaussian_mechanism(noise: float) -> None:
    """Exact delta of the Gaussian mechanism: Balle and Wang 2018, theorem 8, sensitivity 1."""

    def delta_gap(epsilon: float) -> float:
        gap = norm.cdf(0.5 / noise - epsilon * noise)
        return float(gap - math.exp(epsilon) * norm.cdf(-0.5 / noise - epsilon * noise) - 1e-5)

    exact = brentq(delta_gap, 0.0, 40.0)
    spent = privacy_spent(Privacy(noise_multiplier=noise), 1.0, 1).epsilon
    assert exact <= spent <= 1.3 * exact


def test_epsilon_grows_with_steps_and_sampling_and_shrinks_with_noise() -> None:
    def epsilon(noise: float = 1.0, rate: float = 0.1, steps: int = 10) -> float:
        return privacy_spent(Privacy(noise_multiplier=noise), rate, steps).epsilon

    assert epsilon(steps=0) == 0 < epsilon(steps=1) < epsilon(steps=10) < epsilon(steps=1000)
    assert epsilon(rate=0.05) < epsilon(rate=0.1) < epsilon(rate=1.0)
    assert epsilon(noise=2.0) < epsilon(noise=1.0) < epsilon(noise=0.5)


@pytest.mark.parametrize("noise", [1e-300, 1e-160, 1e-9, 0.0099])
def test_noise_that_protects_nothing_is_an_error(noise: float) -> None:
    with pytest.raises(TrainingError, match="FA-7005"):
        privacy_spent(Privacy(noise_multiplier=noise), 0.1, 10)


@given(st.floats(0.01, 1000), st.floats(1e-6, 1), st.integers(1, 100_000), st.floats(1e-15, 0.09))
@settings(max_examples=60, deadline=None)
def test_epsilon_is_always_a_finite_number(noise: float, rate: float, steps: int, delta: float) -> None:
    spent = privacy_spent(Privacy(noise_multiplier=noise, delta=delta), rate, steps)
    assert 0 <= spent.epsilon < math.inf
