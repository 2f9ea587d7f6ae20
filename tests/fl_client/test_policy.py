"""What an owner's policy allows: every rule refuses with its own code, and nothing else does."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigError, DeviceError, TrainingError
from common.privacy import accounting
from common.privacy.accounting import epsilon_of, privacy_spent
from common.protocol.answer import Refusal, decode_answer
from common.protocol.plan import Plan, Privacy
from common.protocol.unit import Unit
from fl_client.account import LARGEST_LEDGER, Account, Cost, Entry
from fl_client.conditions import Conditions, metered
from fl_client.policy import WINDOW_LIMIT, Policy, load_policy, within, write_default_policy
from fl_client.refusing import refuse
from tests.fl_client.made_identity import SMALL, Authority, Made
from tests.processes import run_cli

AUTHORITY = Authority.make()
NOON = Conditions(
    datetime(2026, 6, 1, 12, 0, tzinfo=UTC), charging=True, battery=90.0, load=0.1, metered=False
)


def plan(**changes: object) -> Plan:
    return AUTHORITY.plan_for(**changes)


def private(noise: float) -> Plan:
    return plan(privacy={"noise_multiplier": noise})


def refusal(policy: Policy, order: Plan, down: int = 1000, up: int = 1000) -> str | None:
    try:
        policy.check_plan(order, down, up)
    except DeviceError as error:
        return error.code
    return None


def objections(policy: Policy, now: Conditions = NOON, account: Account | None = None) -> list[str]:
    return [error.code for error in policy.objections(now, account or Account())]


class TestPlans:
    def test_who_has_no_rules_does_what_is_asked(self) -> None:
        for order in (plan(), plan(kind="evaluate"), private(0.01)):
            assert refusal(Policy(), order) is None

    @pytest.mark.parametrize(
        "insisting",
        [
            {"require_privacy": True},
            {"least_noise": 0.5},
            {"maximum_epsilon": 1},
            {"maximum_epsilon_per_round": 1},
            {"unit": "clip"},
        ],
    )
    def test_who_insists_trains_with_privacy_only_and_never_counts(
        self, insisting: dict[str, object]
    ) -> None:
        policy = Policy.model_validate(insisting)
        assert refusal(policy, private(0.5)) is None
        assert refusal(policy, plan()) == "FA-4006"
        assert refusal(policy, plan(kind="evaluate")) == "FA-4006"
        assert refusal(policy, plan(kind="evaluate", privacy={"noise_multiplier": 0.5})) == "FA-4006"

    @given(st.floats(0.01, 1000), st.floats(0.01, 1000))
    def test_less_noise_than_the_least_is_refused(self, noise: float, least: float) -> None:
        assert (refusal(Policy(least_noise=least), private(noise)) is None) == (noise >= least)

    def test_only_the_unit_the_owner_means(self) -> None:
        each_speaker = plan(privacy={"noise_multiplier": 0.5, "unit": "speaker", "units": 3})
        assert refusal(Policy(unit="speaker"), each_speaker) is None
        assert refusal(Policy(unit="clip"), each_speaker) == "FA-4006"
        assert refusal(Policy(unit="speaker"), private(0.5)) == "FA-4006"

    def test_no_evaluation_is_called_private(self) -> None:
        assert refusal(Policy(), plan(kind="evaluate", privacy={"noise_multiplier": 0.5})) == "FA-4006"
        assert refusal(Policy(), plan(kind="evaluate")) is None

    def test_only_allowed_coordinators(self) -> None:
        assert refusal(Policy(allowed_coordinators=(AUTHORITY.pin,)), plan()) is None
        assert refusal(Policy(allowed_coordinators=("0" * 64,)), plan()) == "FA-4030"

    @given(st.integers(1, 1000), st.integers(1, 1000))
    def test_only_large_enough_cohorts(self, cohort: int, least: int) -> None:
        policy = Policy(minimum_cohort=least)
        assert refusal(policy, plan(cohort=cohort)) == (None if cohort >= least else "FA-4032")

    def test_only_allowed_architectures(self) -> None:
        assert refusal(Policy(architectures=("tc-stream",)), plan()) is None
        assert refusal(Policy(architectures=("ds-cnn",)), plan()) == "FA-4035"

    @given(st.integers(0, 10**9), st.integers(0, 10**9))
    def test_only_so_many_bytes(self, size: int, limit: int) -> None:
        fits = size <= limit
        assert refusal(Policy(maximum_bytes_down=limit), plan(), down=size) == (None if fits else "FA-4036")
        assert refusal(Policy(maximum_bytes_up=limit), plan(), up=size) == (None if fits else "FA-4037")

    @given(
        st.floats(0.3, 30),
        st.integers(400, 4096),
        st.integers(16, 4096),
        st.sampled_from(["log-mel", "psd"]),
    )
    def test_no_window_is_larger_than_the_limit(
        self, seconds: float, window: int, hop: int, kind: str
    ) -> None:
        front_end = {"kind": kind, "window": window, "hop": hop}
        task = dict(SMALL["task"]) | {"clip_seconds": seconds, "front_end": front_end}
        order = plan(task=task)
        size = order.task.clip_frames * order.task.front_end.bands
        assert refusal(Policy(), order) == (None if size <= WINDOW_LIMIT else "FA-4007")


class TestMoments:
    def test_nothing_speaks_against_a_quiet_noon(self) -> None:
        policy = Policy(
            rounds_per_day=1,
            hours="08:00-20:00",
            require_charger=True,
            minimum_battery_percent=50,
            maximum_load=0.5,
            allow_metered=False,
        )
        assert objections(policy) == []
        assert policy.untold(NOON) == []

    @pytest.mark.parametrize(
        ("rule", "now", "code"),
        [
            ({"hours": "22:00-06:30"}, {}, "FA-4038"),
            ({"require_charger": True}, {"charging": False}, "FA-4039"),
            ({"minimum_battery_percent": 50}, {"battery": 49.0}, "FA-4040"),
            ({"maximum_load": 0.5}, {"load": 0.6}, "FA-4041"),
            ({"allow_metered": False}, {"metered": True}, "FA-4042"),
        ],
    )
    def test_each_rule_has_its_code(self, rule: dict[str, object], now: dict[str, object], code: str) -> None:
        there = replace(NOON, **now)
        assert objections(Policy.model_validate(rule), there) == [code]
        assert objections(Policy(), there) == []

    def test_what_the_platform_does_not_tell_is_no_objection_and_is_said(self) -> None:
        nothing = Conditions(NOON.time, charging=None, battery=None, load=None, metered=None)
        policy = Policy(
            require_charger=True, minimum_battery_percent=50, maximum_load=0.5, allow_metered=False
        )
        assert objections(policy, nothing) == []
        assert policy.untold(nothing) == [
            "require_charger",
            "minimum_battery_percent",
            "maximum_load",
            "allow_metered",
        ]
        assert Policy().untold(nothing) == []

    def test_the_machine_says_something(self) -> None:
        now = Conditions.now()
        assert now.time.tzinfo is not None
        assert now.load is not None
        assert now.load >= 0

    @given(st.times(), st.times(), st.times())
    def test_hours_may_go_over_midnight(self, begin: time, end: time, moment: time) -> None:
        begin, end = begin.replace(second=0, microsecond=0), end.replace(second=0, microsecond=0)
        minutes = [60 * at.hour + at.minute for at in (begin, end, moment)]
        length = (minutes[1] - minutes[0]) % (24 * 60) or 24 * 60
        inside = (minutes[2] - minutes[0]) % (24 * 60) < length
        assert within(f"{begin:%H:%M}-{end:%H:%M}", moment) == inside

    @pytest.mark.parametrize(
        ("interfaces", "answer"),
        [
            (["lo", "eth0"], False),
            (["lo", "wwan0"], True),
            (["ppp0", "rmnet_data0"], True),
            (["wwan0", "wlan0"], False),
            (["lo", "lo0"], None),
            ([], None),
            (["loft0"], False),
        ],
    )
    def test_a_network_is_metered_if_only_mobile_ones_are_up(
        self, interfaces: list[str], answer: bool | None
    ) -> None:
        assert metered(interfaces) is answer


def account_of(*entries: Entry) -> Account:
    account = Account()
    for entry in entries:
        account.add(entry)
    return account


def round_of(number: int, moment: datetime = NOON.time) -> Entry:
    return Entry(state="round", time=moment, run="r", round=number)


def reserved(cost: Cost) -> Entry:
    return Entry(state="reserved", time=NOON.time, cost=cost)


class TestRoundsPerDay:
    TODAY = NOON.time.date()

    def test_each_line_is_one(self) -> None:
        account = account_of(round_of(1))
        assert account.rounds_on(self.TODAY) == 1
        assert account.counts(self.TODAY, "r/1")
        assert not account.counts(self.TODAY, "r/2")
        account.add(round_of(2))
        assert account.rounds_on(self.TODAY) == 2
        assert account.rounds_on(self.TODAY + timedelta(days=1)) == 0

    def test_so_many_and_no_more_until_midnight(self) -> None:
        policy, account = Policy(rounds_per_day=2), Account()
        for number in range(2):
            assert objections(policy, NOON, account) == []
            account.add(round_of(number))
        assert objections(policy, NOON, account) == ["FA-4031"]
        assert objections(policy, replace(NOON, time=NOON.time + timedelta(days=1)), account) == []

    def test_none_at_all(self) -> None:
        assert objections(Policy(rounds_per_day=0)) == ["FA-4031"]


class TestPrivacy:
    COST = Cost(unit="clip", noise_multiplier=1.0, sampling_rate=0.1, steps=100, delta=1e-5)
    EPSILON = epsilon_of(COST.steps_by_kind, 1e-5)

    def test_one_round_within_its_limit(self) -> None:
        Policy(maximum_epsilon_per_round=self.EPSILON * 1.01).check_cost(Account(), self.COST)
        with pytest.raises(DeviceError, match="FA-4033"):
            Policy(maximum_epsilon_per_round=self.EPSILON * 0.99).check_cost(Account(), self.COST)

    def test_all_rounds_within_theirs(self) -> None:
        policy, account, taken = Policy(maximum_epsilon=3 * self.EPSILON), Account(), 0
        left = policy.rounds_left(account, self.COST)
        with pytest.raises(DeviceError, match="FA-4034"):  # noqa: PT012 - how many fit is the question
            while True:
                policy.check_cost(account, self.COST)
                account.add(reserved(self.COST))
                taken += 1
        # Together they cost less than the sum of each.
        assert taken == left > 3
        assert policy.spent(account)["clip"] <= 3 * self.EPSILON
        assert policy.rounds_left(account, self.COST) == 0

    def test_at_99_per_cent_what_would_cross_is_refused_and_what_fits_is_not(self) -> None:
        account = account_of(reserved(self.COST))
        policy = Policy(maximum_epsilon=self.EPSILON / 0.99)
        with pytest.raises(DeviceError, match="FA-4034"):
            policy.check_cost(account, self.COST)
        little = self.COST.model_copy(update={"steps": 1})
        policy.check_cost(account, little)
        account.add(reserved(little))
        assert policy.spent(account)["clip"] <= self.EPSILON / 0.99

    def test_without_a_limit_there_is_no_end(self) -> None:
        assert Policy().rounds_left(account_of(reserved(self.COST)), self.COST) is None

    def test_units_do_not_add_up(self) -> None:
        account = account_of(reserved(self.COST))
        speakers = self.COST.model_copy(update={"unit": "speaker"})
        policy = Policy(maximum_epsilon=1e6)
        with pytest.raises(DeviceError, match="FA-4060"):
            policy.check_cost(account, speakers)
        assert policy.rounds_left(account, speakers) == 0
        policy.check_cost(account, self.COST)
        Policy().check_cost(account, speakers)
        account.add(reserved(speakers))
        assert policy.spent(account) == {"clip": self.EPSILON, "speaker": self.EPSILON}

    def test_the_refusal_does_not_tell_what_others_asked_for(self) -> None:
        speakers = self.COST.model_copy(update={"unit": "speaker"})
        with pytest.raises(DeviceError, match="privacy per speaker") as caught:
            Policy(maximum_epsilon=1e6).check_cost(account_of(reserved(speakers)), self.COST)
        said = decode_answer(refuse(caught.value), {})
        assert isinstance(said, Refusal)
        assert said.code == "FA-4060"
        assert not any(unit in said.reason for unit in get_args(Unit))

    @pytest.mark.parametrize("limit", ["maximum_epsilon", "maximum_epsilon_per_round"])
    def test_what_cannot_be_computed_is_refused(self, limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Opacus says what it says; that is no number, for once."""
        monkeypatch.setattr(accounting._renyi(), "get_privacy_spent", lambda **_: (math.nan, 2.0))
        assert epsilon_of(self.COST.steps_by_kind, 1e-5) == math.inf
        with pytest.raises(TrainingError, match="FA-7005"):
            privacy_spent(Privacy(), 0.1, 9)
        with pytest.raises(DeviceError, match=r"FA-403[34]"):
            Policy.model_validate({limit: 1e9}).check_cost(Account(), self.COST)

    def test_a_plan_cannot_make_epsilon_small_by_its_delta(self) -> None:
        generous = self.COST.model_copy(update={"delta": 0.09})
        assert epsilon_of(generous.steps_by_kind, 0.09) < self.EPSILON
        with pytest.raises(DeviceError, match="FA-4033"):
            Policy(maximum_epsilon_per_round=self.EPSILON * 0.99).check_cost(Account(), generous)

    def test_too_many_different_costs(self) -> None:
        noises = [0.5 + number / 1000 for number in range(LARGEST_LEDGER)]
        costs = [self.COST.model_copy(update={"noise_multiplier": noise}) for noise in noises]
        account = account_of(*map(reserved, costs))
        assert account.steps_with(costs[3])[0.1, noises[3]] == 200
        with pytest.raises(DeviceError, match="FA-4045"):
            Policy(maximum_epsilon=1e6).check_cost(
                account, self.COST.model_copy(update={"noise_multiplier": 3.0})
            )


class TestExact:
    def test_no_limit_of_epsilon_holds_after_an_exact_answer(self) -> None:
        account = account_of(Entry(state="exact", time=NOON.time))
        assert objections(Policy(maximum_epsilon=8.0)) == []
        assert objections(Policy(maximum_epsilon=8.0), NOON, account) == ["FA-4044"]
        assert objections(Policy(maximum_epsilon_per_round=8.0), NOON, account) == []
        assert Policy(maximum_epsilon=8.0).rounds_left(account, TestPrivacy.COST) == 0
        with pytest.raises(DeviceError, match="FA-4044"):
            Policy(maximum_epsilon=8.0).check_cost(account, TestPrivacy.COST)


class TestFile:
    def test_the_default_explains_every_rule_and_sets_none(self, tmp_path: Path) -> None:
        path = tmp_path / "policy.toml"
        write_default_policy(path)
        assert load_policy(path) == Policy()
        text = path.read_text()
        assert all(f"# {name} = " in text for name in Policy.model_fields)

    def test_every_example_is_possible(self, tmp_path: Path) -> None:
        path = tmp_path / "policy.toml"
        write_default_policy(path)
        rules = [line[2:] for line in path.read_text().splitlines() if " = " in line]
        path.write_text("\n".join(rules))
        assert load_policy(path).hours == "22:00-06:30"

    def test_an_owners_rules_are_not_overwritten(self, tmp_path: Path) -> None:
        path = tmp_path / "policy.toml"
        path.write_text("rounds_per_day = 3\n")
        write_default_policy(path)
        assert load_policy(path).rounds_per_day == 3

    @pytest.mark.parametrize("text", ["hours = '25:00-06:00'", "round_per_day = 3", "rounds_per_day ="])
    def test_a_mistake_is_named(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "policy.toml"
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"FA-600[23]"):
            load_policy(path)


def test_the_command_says_what_would_refuse_now(made: Made) -> None:
    made.home.policy.write_text("rounds_per_day = 0\nmaximum_load = 1000\n")
    checked = run_cli("client", "policy", "check", "--home", str(made.home.root), "--json")
    assert [one["code"] for one in json.loads(checked.stdout)["refusing"]] == ["FA-4031"]
    shown = run_cli("client", "policy", "show", "--home", str(made.home.root))
    assert "rounds_per_day: 0" in shown.stdout
