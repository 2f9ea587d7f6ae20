"""Epsilon against two accountants that are not ours, and what a statement of it says."""

from __future__ import annotations

import math
import warnings
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import RDPAccountant
from scipy.optimize import brentq
from scipy.stats import norm

from common.errors import TrainingError
from common.privacy.accounting import ORDERS, closest_epsilon, compose, epsilon_of, privacy_spent
from common.protocol.plan import Privacy
from common.protocol.unit import Unit

dp = pytest.importorskip("dp_accounting", reason="pip install 'fedaudio[accounting]'")
RdpAccountant = pytest.importorskip("dp_accounting.rdp").RdpAccountant
pld = pytest.importorskip("dp_accounting.pld").privacy_loss_distribution

GRID = [
    (0.064, 1.0, 312, 1e-5),  # 500 clips, 20 rounds
    (0.27, 3.0, 160, 1e-5),  # 60 clips, 40 rounds
    (0.5, 0.7, 10, 1e-5),
    (1.0, 1.0, 1, 1e-5),
    (1.0, 3.0, 50, 1e-6),
    (0.01, 1.5, 1, 1e-5),
    (0.01, 50.0, 10, 1e-6),  # epsilons below Opacus's largest order
    (0.05, 20.0, 100, 1e-3),
    (0.002, 0.8, 20_000, 1e-7),
    (0.2, 0.6, 200, 1e-5),  # an epsilon near 100
]


def by_google(rate: float, noise: float, steps: int, delta: float) -> float:
    """Renyi differential privacy of dp-accounting."""
    accountant = RdpAccountant(orders=list(ORDERS))
    accountant.compose(dp.PoissonSampledDpEvent(rate, dp.GaussianDpEvent(noise)), steps)
    return float(accountant.get_epsilon(delta))


@cache
def tight(rate: float, noise: float, steps: int, delta: float) -> tuple[float, float]:
    """Between which two the smallest epsilon is that can be proved: dp-accounting's privacy loss
    distributions, optimistic and pessimistic."""
    low, high = (
        pld.from_gaussian_mechanism(
            noise, sampling_prob=rate, pessimistic_estimate=pessimistic, value_discretization_interval=1e-3
        )
        .self_compose(steps)
        .get_epsilon_for_delta(delta)
        for pessimistic in (False, True)
    )
    return float(low), float(high)


def by_opacus(rate: float, noise: float, steps: int, delta: float) -> float:
    accountant = RDPAccountant()
    accountant.history = [(noise, rate, steps)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(accountant.get_epsilon(delta, alphas=list(ORDERS)))


@pytest.mark.parametrize(("rate", "noise", "steps", "delta"), GRID)
def test_epsilon_is_that_of_two_accountants_and_never_below_the_tight_one(
    rate: float, noise: float, steps: int, delta: float
) -> None:
    epsilon = epsilon_of({(rate, noise): steps}, delta)
    assert epsilon == pytest.approx(by_opacus(rate, noise, steps, delta), rel=1e-9)
    assert epsilon <= 1.01 * by_google(rate, noise, steps, delta)
    if epsilon < 50:  # above, dp-accounting leaves out the best orders, whose series it does not finish
        assert epsilon >= 0.99 * by_google(rate, noise, steps, delta)
    low, _ = tight(rate, noise, steps, delta)
    assert epsilon >= low


@pytest.mark.parametrize(("rate", "noise", "steps", "delta"), GRID)
def test_the_closest_epsilon_is_between_the_tight_one_and_the_ledgers(
    rate: float, noise: float, steps: int, delta: float
) -> None:
    spent = {(rate, noise): steps}
    closest, accountant = closest_epsilon(spent, delta)
    low, high = tight(rate, noise, steps, delta)
    assert low <= closest <= epsilon_of(spent, delta)
    if accountant == "prv":
        assert closest == pytest.approx(high, rel=0.01, abs=0.02)


def test_the_closest_epsilon_is_that_of_prv_at_usual_settings() -> None:
    closest, accountant = closest_epsilon({(0.064, 1.0): 312}, 1e-5)
    assert accountant == "prv"
    assert closest < 0.95 * epsilon_of({(0.064, 1.0): 312}, 1e-5)


@pytest.mark.parametrize(
    ("rate", "noise", "steps", "delta"),
    [
        (0.2, 0.05, 100_000, 1e-5),  # would take all memory
        (0.25, 0.3, 20_000, 1e-5),
        (1e-6, 1.0, 1, 1e-5),  # says nearly nothing
        (1.0, 500.0, 1, 1e-9),
    ],
)
def test_where_prv_fails_the_ledgers_epsilon_is_said(
    rate: float, noise: float, steps: int, delta: float
) -> None:
    spent = {(rate, noise): steps}
    assert closest_epsilon(spent, delta) == (epsilon_of(spent, delta), "rdp")


@given(st.floats(0.01, 1000), st.floats(1e-6, 1), st.integers(1, 5000), st.floats(1e-12, 0.01))
@settings(max_examples=25, deadline=None)
def test_the_closest_epsilon_is_always_there(noise: float, rate: float, steps: int, delta: float) -> None:
    closest, _ = closest_epsilon({(rate, noise): steps}, delta)
    assert 0 <= closest <= epsilon_of({(rate, noise): steps}, delta)


@pytest.mark.parametrize("noise", [1.0, 2.0, 8.0])
def test_epsilon_is_never_below_the_exact_one_of_the_gaussian_mechanism(noise: float) -> None:
    """Exact delta of the Gaussian mechanism: Balle and Wang 2018, theorem 8, sensitivity 1."""

    def delta_gap(epsilon: float) -> float:
        gap = norm.cdf(0.5 / noise - epsilon * noise)
        return float(gap - math.exp(epsilon) * norm.cdf(-0.5 / noise - epsilon * noise) - 1e-5)

    exact = brentq(delta_gap, 0.0, 40.0)
    spent = privacy_spent(Privacy(noise_multiplier=noise), 1.0, 1).epsilon
    assert exact <= spent <= 1.3 * exact


@pytest.mark.parametrize(("noise", "steps"), [(50.0, 10), (0.3, 2000)])
def test_orders_reach_as_far_as_epsilons_do(noise: float, steps: int) -> None:
    """Opacus's own end at 1.1 and 63: too few for these, whose best orders lie beyond."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        accountant = RDPAccountant()
        accountant.history = [(noise, 0.01 if noise > 1 else 0.25, steps)]
        theirs = accountant.get_epsilon(1e-5)
    ours = epsilon_of({(0.01 if noise > 1 else 0.25, noise): steps}, 1e-5)
    assert ours < 0.95 * theirs


def test_epsilon_grows_with_steps_and_sampling_and_shrinks_with_noise() -> None:
    def epsilon(noise: float = 1.0, rate: float = 0.1, steps: int = 10) -> float:
        return privacy_spent(Privacy(noise_multiplier=noise), rate, steps).epsilon

    assert epsilon(steps=0) == 0 < epsilon(steps=1) < epsilon(steps=10) < epsilon(steps=1000)
    assert epsilon(rate=0.05) < epsilon(rate=0.1) < epsilon(rate=1.0)
    assert epsilon(noise=2.0) < epsilon(noise=1.0) < epsilon(noise=0.5)


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.3, 1.0]), st.sampled_from([0.8, 2.0]), st.integers(0, 99))))
@settings(max_examples=40, deadline=None)
def test_trainings_cost_together_no_less_than_each_and_no_more_than_all(
    events: list[tuple[float, float, int]],
) -> None:
    steps: dict[tuple[float, float], int] = {}
    for rate, noise, count in events:
        steps[rate, noise] = steps.get((rate, noise), 0) + count
    each = [epsilon_of({(rate, noise): count}, 1e-5) for rate, noise, count in events]
    together = epsilon_of(steps, 1e-5)
    assert max(each, default=0.0) <= together * (1 + 1e-12)
    # Basic composition takes delta from every one of them.
    apart = (epsilon_of({(rate, noise): count}, 1e-5 / len(events)) for rate, noise, count in events)
    assert together <= sum(apart) * (1 + 1e-9)


@pytest.mark.parametrize("unit", ["clip", "recording", "speaker"])
def test_a_statement_says_all_that_belongs_to_an_epsilon(unit: Unit) -> None:
    spent = privacy_spent(Privacy(noise_multiplier=1.5, unit=unit, units=5), 0.25, 40)
    said = spent.model_dump()
    assert said.pop("epsilon") == epsilon_of({(0.25, 1.5): 40}, 1e-5)
    assert said == {
        "delta": 1e-5,
        "unit": unit,
        "adjacency": "add or remove one",
        "sampler": "poisson",
        "trusted": "device",
        "accountant": "rdp",
        "noise_multiplier": 1.5,
        "sampling_rate": 0.25,
        "steps": 40,
    }


def test_trainings_of_one_unit_compose_and_of_two_do_not() -> None:
    one = privacy_spent(Privacy(noise_multiplier=1.5, unit="speaker", units=5), 0.25, 40)
    both = compose([one, one], 1e-5)
    assert (both.steps, both.unit) == (80, "speaker")
    assert both.epsilon == epsilon_of({(0.25, 1.5): 80}, 1e-5)
    with pytest.raises(ValueError, match="unit"):
        compose([one, privacy_spent(Privacy(noise_multiplier=1.5), 0.25, 40)], 1e-5)


def test_delta_holds_the_error_of_the_sampler() -> None:
    """Nothing to see at any epsilon that protects; where the promise is empty it says so."""
    assert privacy_spent(Privacy(noise_multiplier=0.7), 0.5, 40).delta == 1e-5
    far = privacy_spent(Privacy(noise_multiplier=0.6), 0.2, 200)
    assert far.epsilon > 60
    assert 1e-5 < far.delta < 1e-5 * (1 + 1e-9)
    assert privacy_spent(Privacy(noise_multiplier=0.02), 0.5, 1000).delta == 1


@pytest.mark.parametrize("noise", [1e-300, 1e-160, 1e-9, 0.0099])
def test_noise_that_protects_nothing_is_an_error(noise: float) -> None:
    with pytest.raises(TrainingError, match="FA-7005"):
        privacy_spent(Privacy(noise_multiplier=noise), 0.1, 10)


@given(st.floats(0.01, 1000), st.floats(1e-6, 1), st.integers(1, 100_000), st.floats(1e-15, 0.09))
@settings(max_examples=60, deadline=None)
def test_epsilon_is_always_a_finite_number(noise: float, rate: float, steps: int, delta: float) -> None:
    spent = privacy_spent(Privacy(noise_multiplier=noise, delta=delta), rate, steps)
    assert 0 <= spent.epsilon < math.inf
    assert delta <= spent.delta <= 1
