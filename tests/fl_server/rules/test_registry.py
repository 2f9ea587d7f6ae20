"""Which rule the settings make, and when there are too few devices for it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigError, CoordinatorError
from common.protocol.tensors import norm
from common.task import Task
from fl_server.rules.registry import attackers_among, make_rule, withstands_nobody
from fl_server.settings import Aggregation, RuleName, ServerSettings
from tests.fl_server.rules.made_rules import RULES, combine, fold, honest_rows, rule_for, settings_for


@pytest.mark.parametrize(
    ("devices", "share", "attackers"),
    [
        (10, 0.2, 2),
        (14, 0.2, 2),
        (4, 0.2, 0),
        (5, 0.2, 1),
        (5, 0.0, 0),
        (100, 0.07, 7),
        (30, 0.1, 3),
        (3, 0.49, 1),
    ],
)
def test_as_many_attackers_as_fit_into_their_share(devices: int, share: float, attackers: int) -> None:
    assert attackers_among(devices, share) == attackers


@given(st.integers(1, 1000), st.integers(0, 49))
def test_one_more_would_be_more_than_their_share(devices: int, percent: int) -> None:
    attackers = attackers_among(devices, percent / 100)
    assert attackers <= percent * devices / 100 < attackers + 1


FEWEST = {
    "mean": 1,
    "median": 5,
    "trimmed-mean": 5,
    "krum": 7,
    "multi-krum": 7,
    "geometric-median": 5,
    "centred-clipping": 5,
    "trust": 1,
}
"""Updates that each rule needs where two of ten devices may be attackers."""


@pytest.mark.parametrize("rule", RULES)
def test_with_too_few_answers_a_round_is_void(rule: RuleName) -> None:
    rows, fewest = honest_rows(10, 4, 0), FEWEST[rule]
    chosen = settings_for(rule, clipping=2.0)
    assert fold(rule_for(chosen, rows[:fewest], asked=10), rows[:fewest]).shape == (4,)
    if fewest > 1:
        with pytest.raises(CoordinatorError, match="FA-5114"):
            fold(rule_for(chosen, rows[: fewest - 1], asked=10), rows[: fewest - 1])


@pytest.mark.parametrize("rule", RULES)
def test_mixing_needs_a_majority_of_the_honest_too(rule: RuleName) -> None:
    rows = honest_rows(10, 4, 0)
    with pytest.raises(CoordinatorError, match="FA-5114"):
        fold(rule_for(settings_for(rule, mixing="distance"), rows[:4], asked=10), rows[:4])


@pytest.mark.parametrize("rule", ["krum", "multi-krum"])
def test_too_small_a_cohort_is_refused_before_anybody_is_asked(rule: RuleName) -> None:
    with pytest.raises(ConfigError, match="FA-6040"):
        make_rule(settings_for(rule), {"a": (4,)}, 2)


@pytest.mark.parametrize("devices", [1, 2, 3, 4])
def test_the_default_is_a_mean_where_no_device_may_be_an_attacker(devices: int) -> None:
    rows = honest_rows(devices, 6, 0)
    default = ServerSettings(task=Task(labels=("a", "b")), aggregation=Aggregation(norm_clipping=100))
    np.testing.assert_allclose(combine(default, rows), rows.mean(axis=0), atol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_no_answer_is_no_result(rule: RuleName) -> None:
    for clipping in (0.0, 2.0):
        empty = rule_for(settings_for(rule, clipping=clipping), honest_rows(10, 4, 0))
        assert empty.count == 0
        with pytest.raises(ZeroDivisionError):
            empty.result()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("norms", [[], [1.0]], ids=["first round", "later"])
def test_updates_are_counted(rule: RuleName, norms: list[float]) -> None:
    rows = honest_rows(7, 4, 0)
    counted = rule_for(settings_for(rule, clipping=2.0), rows, norms=norms)
    for place, row in enumerate(rows):
        assert counted.count == place
        counted.fold(row, 1, device=str(place), norm=norm(row))
    assert counted.count == 7


def test_what_attackers_withhold_does_not_make_them_fewer() -> None:
    # Ten were asked and six came, two of them attackers: two are trimmed, as if all had come.
    rows = honest_rows(6, 5, 0)
    rows[:2] = 1e4
    result = combine(settings_for("trimmed-mean"), rows, asked=10)
    assert (result <= rows[2:].max(axis=0)).all()


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "mean"])
def test_rules_that_compare_heed_no_claim_of_many_clips(rule: RuleName) -> None:
    rows, chosen = honest_rows(7, 5, 0), settings_for(rule)
    one, many = (fold(rule_for(chosen, rows), rows, weights=[weight] + 6 * [1]) for weight in (1, 1000))
    assert one.tobytes() == many.tobytes()
    with pytest.raises(ValueError, match="every update counts as one"):
        settings_for(rule, weighting="clips")


@pytest.mark.parametrize(
    ("aggregation", "cohort", "expected"),
    [
        (Aggregation(), 4, True),
        (Aggregation(), 5, False),
        (Aggregation(attackers=0), 4, False),
        (Aggregation(rule="mean", mixing="direction"), 4, True),
        (Aggregation(rule="mean", mixing="off"), 4, False),
    ],
)
def test_it_is_known_where_a_rule_withstands_nobody(
    aggregation: Aggregation, cohort: int, expected: bool
) -> None:
    assert withstands_nobody(aggregation, cohort) == expected


def test_the_rule_trust_needs_clips() -> None:
    with pytest.raises(ConfigError, match="FA-6041"):
        make_rule(settings_for("trust"), {"a": (4,)}, 10)


def test_the_reference_is_trained_only_when_all_have_answered() -> None:
    rows, trained = honest_rows(5, 4, 0), []

    def reference() -> np.ndarray:
        trained.append(1)
        return rows.mean(axis=0)

    rule = make_rule(settings_for("trust"), {"b": (3,), "a": (1,)}, 5, reference=reference)
    assert not trained
    fold(rule, rows)
    assert trained == [1]
