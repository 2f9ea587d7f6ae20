"""What an order is written down as: only what the owner agrees to at that moment."""

from __future__ import annotations

import pytest

from common.data.clips import Clips
from common.errors import ConfigError, DeviceError
from common.privacy.accounting import privacy_spent
from common.protocol.plan import Plan
from fl_client.books import Books
from fl_client.policy import load_policy
from tests.fl_client.made_identity import Authority, Made

AUTHORITY = Authority.make()
EXACT = AUTHORITY.plan_for()
PRIVATE = AUTHORITY.plan_for(privacy={"noise_multiplier": 1.0})


def books(made: Made, plan: Plan) -> Books:
    policy = made.home.policy
    return Books(made.ledger, policy, load_policy(policy), plan, "ab" * 32, Clips([]))


def reserve(of: Books) -> None:
    assert PRIVATE.privacy is not None
    of.reserve(privacy_spent(PRIVATE.privacy, 0.1, 100))


def states(made: Made) -> list[str]:
    return [entry.state for _, entry in made.ledger.entries()]


def test_what_is_agreed_to_is_written_down(made: Made) -> None:
    books(made, EXACT).note_exact()
    private = books(made, PRIVATE)
    reserve(private)
    private.settle()
    assert states(made) == ["exact", "reserved", "spent"]


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        ("maximum_epsilon = 0.01", "FA-4034"),
        ("maximum_epsilon_per_round = 0.01", "FA-4033"),
        ("least_noise = 2.0", "FA-4006"),
        ('unit = "speaker"', "FA-4006"),
    ],
)
def test_what_is_forbidden_while_clips_are_read_is_not_spent(made: Made, rule: str, code: str) -> None:
    private = books(made, PRIVATE)
    made.home.policy.write_text(rule)
    with pytest.raises(DeviceError, match=code):
        reserve(private)
    made.home.policy.write_text("maximum_epsilon = [")
    with pytest.raises(ConfigError, match="FA-6002"):
        reserve(private)
    assert states(made) == []


@pytest.mark.parametrize("is_there", [True, False])
def test_what_was_forbidden_before_is_not_spent_while_the_file_is_written_anew(
    made: Made, is_there: bool
) -> None:
    made.home.policy.write_text("maximum_epsilon = 0.01")
    private = books(made, PRIVATE)
    made.home.policy.write_text("") if is_there else made.home.policy.unlink()
    with pytest.raises(DeviceError, match="FA-4034"):
        reserve(private)
    assert states(made) == []


@pytest.mark.parametrize("rule", ["require_privacy = true", "maximum_epsilon = 8.0"])
def test_nor_is_an_exact_answer_given(made: Made, rule: str) -> None:
    exact = books(made, EXACT)
    made.home.policy.write_text(rule)
    with pytest.raises(DeviceError, match="FA-4006"):
        exact.note_exact()
    assert states(made) == []


def test_a_limit_that_came_after_an_exact_answer_lets_nothing_be_spent(made: Made) -> None:
    books(made, EXACT).note_exact()
    made.home.policy.write_text("maximum_epsilon = 100.0")
    with pytest.raises(DeviceError, match="FA-4044"):
        reserve(books(made, PRIVATE))
    assert states(made) == ["exact"]
