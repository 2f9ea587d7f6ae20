"""What an owner's policy allows: every rule refuses with its own code, and nothing else does."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigError, DeviceError
from common.files import StorageError
from common.privacy.accounting import privacy_spent
from common.protocol.plan import Plan, Privacy
from fl_client.conditions import Conditions, metered
from fl_client.ledger import LARGEST_LEDGER, Ledger, Spent, change_ledger, read_ledger
from fl_client.policy import WINDOW_LIMIT, Policy, load_policy, within, write_default_policy
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


def objections(policy: Policy, now: Conditions = NOON, ledger: Ledger | None = None) -> list[str]:
    return [error.code for error in policy.objections(now, ledger or Ledger())]


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


class TestRoundsPerDay:
    TODAY = date(2026, 6, 1)

    def test_an_evaluation_belongs_to_its_round(self) -> None:
        ledger = Ledger().with_round(self.TODAY, "r/1").with_round(self.TODAY, "r/1")
        assert ledger.rounds_on(self.TODAY) == 1
        assert ledger.with_round(self.TODAY, "r/2").rounds_on(self.TODAY) == 2

    def test_so_many_and_no_more_until_midnight(self) -> None:
        policy, ledger = Policy(rounds_per_day=2), Ledger()
        for number in range(2):
            assert objections(policy, NOON, ledger) == []
            ledger = ledger.with_round(NOON.time.date(), f"r/{number}")
        assert objections(policy, NOON, ledger) == ["FA-4031"]
        assert objections(policy, replace(NOON, time=NOON.time + timedelta(days=1)), ledger) == []

    def test_none_at_all(self) -> None:
        assert objections(Policy(rounds_per_day=0)) == ["FA-4031"]


class TestPrivacy:
    COST = privacy_spent(Privacy(noise_multiplier=1.0), 0.1, 100)

    def test_one_round_within_its_limit(self) -> None:
        least = self.COST.epsilon
        Policy(maximum_epsilon_per_round=least * 1.01).check_cost(Ledger(), self.COST)
        with pytest.raises(DeviceError, match="FA-4033"):
            Policy(maximum_epsilon_per_round=least * 0.99).check_cost(Ledger(), self.COST)

    def test_all_rounds_within_theirs(self) -> None:
        policy, ledger, taken = Policy(maximum_epsilon=3 * self.COST.epsilon), Ledger(), 0
        with pytest.raises(DeviceError, match="FA-4034"):  # noqa: PT012 - how many fit is the question
            while True:
                policy.check_cost(ledger, self.COST)
                ledger = ledger.with_cost(self.COST)
                taken += 1
        # Together they cost less than the sum of each.
        assert taken > 3
        assert policy.spent(ledger) <= 3 * self.COST.epsilon
        assert len(ledger.spent) == 1

    def test_a_plan_cannot_make_epsilon_small_by_its_delta(self) -> None:
        generous = privacy_spent(Privacy(noise_multiplier=1.0, delta=0.09), 0.1, 100)
        assert generous.epsilon < self.COST.epsilon
        with pytest.raises(DeviceError, match="FA-4033"):
            Policy(maximum_epsilon_per_round=self.COST.epsilon * 0.99).check_cost(Ledger(), generous)


class TestExact:
    def test_no_limit_of_epsilon_holds_after_an_exact_answer(self) -> None:
        ledger = Ledger().with_exact()
        assert objections(Policy(maximum_epsilon=8.0)) == []
        assert objections(Policy(maximum_epsilon=8.0), NOON, ledger) == ["FA-4044"]
        assert objections(Policy(maximum_epsilon_per_round=8.0), NOON, ledger) == []

    def test_the_command_says_so(self, made: Made) -> None:
        change_ledger(made.home.ledger, lambda ledger: ledger.with_exact().with_exact())
        where = ("--home", str(made.home.root))
        said = json.loads(run_cli("client", "policy", "show", *where, "--json").stdout)
        assert (said["spent_epsilon"], said["exact_answers"]) == (None, 2)
        assert "2 exact answers: no epsilon bounds them" in run_cli("client", "policy", "show", *where).stdout


class TestLedger:
    def test_steps_add_up_without_end(self, tmp_path: Path) -> None:
        path = tmp_path / "ledger.json"
        most = TestPrivacy.COST.model_copy(update={"steps": 10_000_000})
        for _ in range(3):
            change_ledger(path, lambda ledger: ledger.with_cost(most))
        assert read_ledger(path).spent[0].steps == 30_000_000

    def test_a_full_one_takes_what_it_knows_and_nothing_new(self) -> None:
        noises = [0.5 + number / 1000 for number in range(LARGEST_LEDGER)]
        known = [Spent(noise_multiplier=noise, sampling_rate=0.1, steps=1) for noise in noises]
        ledger = Ledger(spent=tuple(known))
        again = TestPrivacy.COST.model_copy(update={"noise_multiplier": noises[3]})
        assert ledger.with_cost(again).spent[3].steps == 101
        new = TestPrivacy.COST.model_copy(update={"noise_multiplier": 3.0})
        with pytest.raises(DeviceError, match="FA-4045"):
            ledger.with_cost(new)
        with pytest.raises(DeviceError, match="FA-4045"):
            Policy(maximum_epsilon=1e6).check_cost(ledger, new)

    def test_a_lost_one_is_not_taken_for_an_empty_one(self, tmp_path: Path) -> None:
        path = tmp_path / "ledger.json"
        assert read_ledger(path) == Ledger()
        change_ledger(path, lambda ledger: ledger.with_exact())
        path.unlink()
        with pytest.raises(DeviceError, match=r"FA-4043.*lost"):
            change_ledger(path, lambda ledger: ledger.with_exact())

    def test_one_that_cannot_be_read_is_not_called_damaged(self, tmp_path: Path) -> None:
        (tmp_path / "ledger.json").mkdir()
        with pytest.raises(StorageError, match="FA-8001"):
            read_ledger(tmp_path / "ledger.json")
        with pytest.raises(StorageError, match="FA-8001"):
            change_ledger(tmp_path / "none" / "ledger.json", lambda ledger: ledger.with_exact())

    def test_what_was_booked_is_on_the_disk(self, tmp_path: Path) -> None:
        path = tmp_path / "ledger.json"
        change_ledger(path, lambda ledger: ledger.with_cost(TestPrivacy.COST))
        change_ledger(path, lambda ledger: ledger.with_cost(TestPrivacy.COST))
        assert sum(one.steps for one in read_ledger(path).spent) == 200
        assert path.stat().st_mode & 0o777 == 0o600

    def test_a_refused_change_changes_nothing(self, tmp_path: Path) -> None:
        path = tmp_path / "ledger.json"

        def refuse(ledger: Ledger) -> Ledger:
            raise DeviceError("FA-4034", "no", "no")

        with pytest.raises(DeviceError):
            change_ledger(path, refuse)
        assert read_ledger(path) == Ledger()

    @pytest.mark.parametrize("data", [b"", b"{}", b"x", b'{"day":"","rounds":-1,"last":"","spent":[]}'])
    def test_a_damaged_one_is_not_guessed(self, tmp_path: Path, data: bytes) -> None:
        path = tmp_path / "ledger.json"
        path.write_bytes(data)
        with pytest.raises(DeviceError, match="FA-4043"):
            read_ledger(path)


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
    assert "Spent so far, with privacy: epsilon 0 " in shown.stdout
