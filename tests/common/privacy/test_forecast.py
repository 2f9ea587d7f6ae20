"""A forecast foresees the cost that training then has, and which of two ways of training can learn."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import TrainingError
from common.models.registry import build_model
from common.privacy.accounting import epsilon_of
from common.privacy.forecast import Schedule, foresee, parameters_of
from common.privacy.grid import Grid
from common.privacy.secure_random import SecureRandom
from common.task import Task

WORDS = Task(labels=tuple(f"word {number}" for number in range(10)), width=64)
ARABIC = Schedule(units=60, batch=30, steps=1, rounds=60, cohort=14)


@pytest.mark.parametrize("epsilon", [0.3, 8.0])
@pytest.mark.parametrize("schedule", [ARABIC, Schedule(500, 32, 16, 100, 20, 1e-6)])
def test_the_noise_keeps_to_the_budget_and_is_hardly_more_than_needed(
    schedule: Schedule, epsilon: float
) -> None:
    noise = schedule.noise_for(epsilon)
    assert noise is not None
    steps = schedule.steps * schedule.rounds
    assert epsilon_of({(schedule.rate, noise): steps}, schedule.delta) <= epsilon
    assert epsilon_of({(schedule.rate, 0.97 * noise): steps}, schedule.delta) > epsilon
    assert schedule.noise_about(epsilon) == pytest.approx(noise, rel=0.01)


def test_noise_for_500_clips_is_that_of_the_literature() -> None:
    """A multiplier of 1.04 for epsilon 8 and 2.66 for 2, over 20 rounds (both opacus and dp-accounting)."""
    schedule = Schedule(units=500, batch=32, steps=16, rounds=20, cohort=1)
    assert schedule.noise_for(8.0) == pytest.approx(1.04, rel=0.02)
    assert schedule.noise_for(2.0) == pytest.approx(2.66, rel=0.02)


def test_noise_of_a_round_is_what_the_devices_together_add() -> None:
    """Drawn as devices draw it, in place of the formula."""
    schedule = Schedule(units=100, batch=20, steps=3, rounds=1, cohort=5)
    prospect, random = schedule.prospect(1.5, 2000, "scratch"), SecureRandom(bytes(32))
    grid, mean = Grid(1.5, 1.0), torch.zeros(2000)
    for _ in range(schedule.cohort):
        for _ in range(schedule.steps):
            mean += grid.noised(torch.zeros(2000, dtype=torch.float64), random) / 20 / schedule.cohort
    assert float(mean.norm()) == pytest.approx(prospect.noise, rel=0.06)
    assert prospect.of_round == prospect.signal / prospect.noise


def test_the_ratio_falls_with_the_root_of_the_parameters_and_grows_with_that_of_the_rounds() -> None:
    few, many = ARABIC.prospect(2.0, 1000, "warm"), ARABIC.prospect(2.0, 4000, "warm")
    assert few.of_run == pytest.approx(2 * many.of_run)
    assert few.of_run == pytest.approx(few.of_round * math.sqrt(ARABIC.rounds))


def test_a_whole_model_from_scratch_is_foreseen_to_fail_where_a_warm_head_learns() -> None:
    """As seen on Arabic words at epsilon 8: .17 for 27,000 parameters, .73 for a head of 6,400."""
    scratch = foresee(ARABIC, 8.0, WORDS)
    assert (scratch.planned.parameters, scratch.planned.outlook) == (27_122, "nothing")
    warm = foresee(ARABIC, 8.0, WORDS, "head", "warm", parameters=6400)
    assert warm.planned.outlook == "much"
    assert warm.planned.of_run > 2 * warm.whole.of_run
    assert warm.whole == scratch.planned


@pytest.mark.parametrize(("epsilon", "outlook"), [(8.0, "much"), (2.0, "little"), (0.5, "nothing")])
def test_what_noise_leaves_of_a_head_was_foreseen_too(epsilon: float, outlook: str) -> None:
    """.73 and .47 at epsilon 8 and 2, where no noise gives .88."""
    noise = ARABIC.noise_about(epsilon)
    assert noise is not None
    assert ARABIC.prospect(noise, 6400, "warm").outlook == outlook


def test_a_forecast_names_all_that_belongs_to_an_epsilon() -> None:
    schedule = Schedule(40, 10, 4, 20, 8, 1e-6, "speaker")
    forecast = foresee(schedule, 4.0, WORDS)
    cost, (closest, accountant) = forecast.cost, forecast.closest
    assert (cost.delta, cost.unit, cost.sampler, cost.steps) == (1e-6, "speaker", "poisson", 80)
    assert (cost.adjacency, cost.trusted, cost.accountant) == ("add or remove one", "device", "rdp")
    assert accountant == "prv"
    assert 0.8 * cost.epsilon < closest < cost.epsilon <= 4.0
    assert list(forecast.needed) == [10, 20, 40]
    assert all(list(row) == [1.0, 2.0, 4.0, 8.0, 16.0] for row in forecast.needed.values())
    for cheap, dear in zip(forecast.needed[10].values(), forecast.needed[40].values(), strict=True):
        assert cheap is not None
        assert dear is not None
        assert cheap < dear


def test_parameters_are_those_of_the_model_that_is_built() -> None:
    model = build_model(WORDS, torch.Generator())
    assert parameters_of(WORDS, "all") == sum(value.numel() for value in model.parameters())
    assert parameters_of(WORDS, "head") == 64 * 10 + 10


@pytest.mark.parametrize(
    "numbers",
    [{"units": 0}, {"batch": 0}, {"steps": 0}, {"rounds": -1}, {"cohort": 0}, {"delta": 0.0}, {"delta": 1.0}],
)
def test_what_makes_no_sense_is_refused(numbers: dict[str, float]) -> None:
    usual = {"units": 60, "batch": 16, "steps": 8, "rounds": 40, "cohort": 14, "delta": 1e-5}
    with pytest.raises(TrainingError, match="FA-7030"):
        Schedule(**(usual | numbers))  # type: ignore[arg-type]


@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.inf, math.nan])
def test_an_epsilon_that_makes_no_sense_is_refused(epsilon: float) -> None:
    with pytest.raises(TrainingError, match="FA-7030"):
        foresee(ARABIC, epsilon, WORDS)


def test_no_parameters_are_refused() -> None:
    with pytest.raises(TrainingError, match="FA-7030"):
        foresee(ARABIC, 8.0, WORDS, parameters=0)


def test_a_budget_that_no_noise_keeps_to_is_refused() -> None:
    with pytest.raises(TrainingError, match="FA-7031"):
        foresee(Schedule(10, 10, 1000, 1000, 1), 0.01, WORDS)


@given(st.integers(1, 500), st.integers(1, 64), st.integers(1, 4), st.integers(1, 50), st.floats(0.2, 30))
@settings(max_examples=3, deadline=None)
def test_any_noise_that_is_named_keeps_to_the_budget(
    units: int, batch: int, steps: int, rounds: int, epsilon: float
) -> None:
    schedule = Schedule(units, batch, steps, rounds, 1)
    noise = schedule.noise_for(epsilon)
    assert noise is None or schedule.cost(noise).epsilon <= epsilon
