"""A round: the mean is that of the honest devices, whatever the others do, and every failure is named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import CoordinatorError
from common.protocol.answer import PrivacySpent, Refusal, Report, encode_answer, encode_refusal
from common.protocol.plan import Plan, Privacy
from common.protocol.release import Metrics
from common.protocol.tensors import Weights, encode_weights
from fl_server.rounds import Collected, draw_cohort, evaluate_cohort, make_plan, train_cohort
from fl_server.settings import ServerSettings
from tests.fl_server.made_fleet import (
    DATA,
    SCHEMA,
    WEIGHTS,
    Device,
    MemoryFleet,
    base_digest,
    good,
    make_delta,
    make_settings,
    report_on,
)


def with_delta(name: str, delta: Weights) -> Device:
    return lambda plan: [encode_answer(report_on(plan, name), delta)]


def with_report(name: str, **changes: object) -> Device:
    return lambda plan: [encode_answer(report_on(plan, name, **changes), make_delta(9))]


def poisoned(value: float) -> Device:
    delta = make_delta(9)
    delta["layer"][2, 1] = value
    return with_delta("rogue", delta)


def claims_too_much(plan: Plan) -> Sequence[bytes]:
    note = report_on(plan, "rogue").model_dump_json().replace('"clips":10', '"clips":1000000000')
    return [encode_weights(make_delta(9), note)]


def bad_name(plan: Plan) -> Sequence[bytes]:
    note = report_on(plan, "rogue").model_dump_json().replace('"rogue"', '"[/red]\\u001b[2J"')
    return [encode_weights(make_delta(9), note)]


REFUSED: dict[str, tuple[Device, str]] = {
    "NaN": (poisoned(np.nan), "FA-3003"),
    "infinity": (poisoned(-np.inf), "FA-3003"),
    "a huge value": (poisoned(1e9), "FA-3008"),
    "an infinite norm of finite values": (poisoned(3e38), "FA-3008"),
    "another shape": (with_delta("rogue", make_delta(9) | {"bias": np.ones(4, np.float32)}), "FA-3002"),
    "a tensor less": (with_delta("rogue", {"layer": make_delta(9)["layer"]}), "FA-3002"),
    "a tensor more": (with_delta("rogue", make_delta(9) | {"more": np.ones(1, np.float32)}), "FA-3002"),
    "no tensors": (with_delta("rogue", {}), "FA-3002"),
    "more clips than any device": (claims_too_much, "FA-3004"),
    "more clips than allowed": (with_report("rogue", clips=10_001), "FA-3008"),
    "a name that is none": (bad_name, "FA-3004"),
    "garbage": (lambda plan: [b"\x13" * 1000], "FA-3001"),
    "a pickle": (lambda plan: [b"\x80\x04\x95" + b"." * 90], "FA-3001"),
    "nothing": (lambda plan: [b""], "FA-3001"),
    "an answer cut short": (
        lambda plan: [encode_answer(report_on(plan, "rogue"), make_delta(9))[:-4]],
        "FA-3001",
    ),
    "another run": (with_report("rogue", run="other"), "FA-3006"),
    "another round": (with_report("rogue", round=6), "FA-3006"),
    "another base": (with_report("rogue", base="0" * 64), "FA-3006"),
    "an evaluation": (
        lambda plan: [encode_answer(report_on(plan, "rogue", kind="evaluate"))],
        "FA-3006",
    ),
    "the name of an honest device": (with_report("first"), "FA-3007"),
    "a refusal": (lambda plan: [encode_refusal(Refusal(code="FA-2002", reason="No clips."))], "FA-2002"),
    "an error of the transport": (lambda plan: ["ValueError"], "FA-5005"),
    "silence": (lambda plan: [None], "FA-5005"),
}


def train(
    devices: dict[int, Device],
    settings: ServerSettings | None = None,
    order: Sequence[int] | None = None,
    booked: list[Report] | None = None,
) -> tuple[Weights, Collected, MemoryFleet]:
    booked = [] if booked is None else booked
    settings = settings or make_settings()
    fleet, collected = MemoryFleet(devices, order), Collected()
    plan = make_plan(settings, "run", 7, DATA)
    mean = train_cohort(fleet, settings, plan, DATA, SCHEMA, fleet.online(), collected, booked.append)
    return mean, collected, fleet


def assert_mean(mean: Weights, seeds: Sequence[int], weights: Sequence[float] | None = None) -> None:
    for name in SCHEMA:
        exact = np.average([make_delta(seed)[name].astype(np.float64) for seed in seeds], 0, weights)
        np.testing.assert_allclose(mean[name], exact, rtol=1e-6, atol=1e-9)


def test_the_mean_of_honest_devices() -> None:
    mean, collected, fleet = train({0: good("a", 1), 1: good("b", 2), 2: good("c", 3)})
    assert_mean(mean, [1, 2, 3])
    assert [report.device for report in collected.reports] == ["a", "b", "c"]
    assert collected.failures == []
    plan, weights, nodes = fleet.asked[0]
    assert (plan.base, weights, nodes) == (base_digest(), DATA, (0, 1, 2))
    assert collected.bytes_down == 3 * (len(plan.model_dump_json()) + len(DATA))
    assert collected.bytes_up == sum(len(good(name, 1)(plan)[0] or b"") for name in "abc")


@pytest.mark.parametrize("what", REFUSED)
def test_a_bad_device_costs_itself_its_place_and_nothing_else(what: str) -> None:
    rogue, code = REFUSED[what]
    mean, collected, _ = train({0: good("first", 1), 1: rogue, 2: good("second", 2)})
    assert_mean(mean, [1, 2])
    assert [report.device for report in collected.reports] == ["first", "second"]
    assert [failure.code for failure in collected.failures] == [code]
    assert collected.failures[0].reason
    assert collected.failures[0].who in {"node 0001", "rogue", "first"}


def test_all_bad_devices_at_once() -> None:
    devices = {number: device for number, (device, _) in enumerate(REFUSED.values())}
    honest = {100: good("first", 1), 101: good("second", 2)}
    order = [100, *devices, 101]
    mean, collected, _ = train(devices | honest, order=order)
    assert_mean(mean, [1, 2])
    assert Counter(failure.code for failure in collected.failures) == Counter(
        code for _, code in REFUSED.values()
    )


def test_a_second_answer_of_one_node_is_not_heard() -> None:
    def twice(plan: Plan) -> Sequence[bytes]:
        return [*good("a", 1)(plan), *good("a2", 50)(plan)]  # type: ignore[list-item]

    mean, collected, _ = train({0: twice, 1: good("b", 2)})
    assert_mean(mean, [1, 2])
    assert len(collected.reports) == 2


def test_a_bad_answer_cannot_be_made_good_by_a_second() -> None:
    def again(plan: Plan) -> Sequence[bytes]:
        return [b"garbage", *good("a", 1)(plan)]  # type: ignore[list-item]

    mean, collected, _ = train({0: again, 1: good("b", 2)})
    assert_mean(mean, [2])
    assert [failure.code for failure in collected.failures] == ["FA-3001"]


def test_a_refused_answer_does_not_take_an_honest_device_its_name() -> None:
    mean, collected, _ = train({0: with_report("kitchen", round=6), 1: good("kitchen", 1)})
    assert_mean(mean, [1])
    assert [report.device for report in collected.reports] == ["kitchen"]


@given(st.permutations(range(6)))
def test_the_order_of_answers_does_not_change_a_bit(order: list[int]) -> None:
    devices = {node: good(f"d{node}", node) for node in range(6)}
    first, _, _ = train(devices)
    second, _, _ = train(devices, order=order)
    assert all(first[name].tobytes() == second[name].tobytes() for name in SCHEMA)


def test_by_default_claiming_clips_gains_no_weight() -> None:
    mean, _, _ = train({0: good("a", 1, clips=1), 1: good("b", 2, clips=9_999)})
    assert_mean(mean, [1, 2])


def test_weighting_by_clips() -> None:
    settings = make_settings(rounds={"weighting": "clips"})
    mean, _, _ = train({0: good("a", 1, clips=3), 1: good("b", 2, clips=1)}, settings)
    assert_mean(mean, [1, 2], [3, 1])
    mean, _, _ = train({0: good("a", 1, clips=0), 1: good("b", 2, clips=1)}, settings)
    assert_mean(mean, [2])


@pytest.mark.parametrize(
    ("devices", "rounds"),
    [
        ({0: REFUSED["garbage"][0], 1: REFUSED["silence"][0]}, {}),
        ({0: good("a", 1), 1: REFUSED["garbage"][0]}, {"min_answers": 2}),
        ({0: good("a", 1, clips=0)}, {"weighting": "clips"}),
    ],
)
def test_too_few_valid_updates_make_the_round_void(
    devices: dict[int, Device], rounds: dict[str, object]
) -> None:
    settings = make_settings(rounds=rounds)
    collected = Collected()
    plan = make_plan(settings, "run", 7, DATA)
    with pytest.raises(CoordinatorError, match="FA-5004") as caught:
        train_cohort(
            MemoryFleet(devices), settings, plan, DATA, SCHEMA, list(devices), collected, lambda report: None
        )
    assert "Round 7" in caught.value.happened
    if collected.failures:
        assert collected.failures[0].reason in caught.value.happened


@pytest.mark.parametrize("limit", [0.5, 64.0, 91.36, 100.0])
def test_updates_right_at_the_limit_are_taken_however_many_there_are(limit: float) -> None:
    # The largest norm in one value: the sum is then as large as it can be. As a float32, 91.36 is a little
    # more, but the root of its square is not.
    delta = {name: np.zeros(shape, np.float32) for name, shape in SCHEMA.items()}
    delta["bias"][0] = np.float32(limit)
    settings = make_settings(rounds={"max_update_norm": limit})
    mean, collected, _ = train({node: with_delta(f"d{node}", delta) for node in range(37)}, settings)
    assert collected.failures == []
    assert mean["bias"][0] == pytest.approx(limit, rel=1e-6)


class TestPrivacy:
    SPENT = PrivacySpent(
        epsilon=1.0, delta=1e-5, accountant="prv", noise_multiplier=1.0, sampling_rate=0.1, steps=10
    )
    SETTINGS = make_settings(privacy=Privacy(noise_multiplier=1.0, delta=1e-5))

    def test_it_is_asked_for(self) -> None:
        assert make_plan(self.SETTINGS, "run", 1, DATA).privacy == self.SETTINGS.privacy
        assert make_plan(make_settings(), "run", 1, DATA).privacy is None

    def test_an_update_without_it_is_refused(self) -> None:
        private = good("a", 1, privacy=self.SPENT.model_dump())
        mean, collected, _ = train({0: private, 1: good("b", 2)}, self.SETTINGS)
        assert_mean(mean, [1])
        assert [failure.code for failure in collected.failures] == ["FA-3009"]

    def test_what_a_refused_update_cost_is_booked(self) -> None:
        spent = self.SPENT.model_dump()
        devices = {0: good("a", 1, privacy=spent), 1: good("b", 2, clips=99_999, privacy=spent)}
        booked: list[Report] = []
        _, collected, _ = train(devices, self.SETTINGS, booked=booked)
        assert [failure.code for failure in collected.failures] == ["FA-3008"]
        assert [report.device for report in booked] == ["a", "b"]

    @pytest.mark.parametrize("wrong", [{"noise_multiplier": 0.5}, {"delta": 1e-2}])
    def test_less_than_asked_is_refused(self, wrong: dict[str, float]) -> None:
        devices = {
            0: good("a", 1, privacy=self.SPENT.model_dump()),
            1: good("b", 2, privacy=self.SPENT.model_dump() | wrong),
        }
        mean, collected, _ = train(devices, self.SETTINGS)
        assert_mean(mean, [1])
        assert [failure.code for failure in collected.failures] == ["FA-3009"]


class TestEvaluation:
    def evaluate(self, devices: dict[int, Device]) -> tuple[Metrics, Collected, MemoryFleet]:
        settings, collected, fleet = make_settings(), Collected(), MemoryFleet(devices)
        plan = make_plan(settings, "run", 7, b"what was trained from")
        metrics = evaluate_cohort(fleet, plan, WEIGHTS, SCHEMA, fleet.online(), collected)
        return metrics, collected, fleet

    @staticmethod
    def judge(name: str, **facts: object) -> Device:
        return lambda plan: [encode_answer(report_on(plan, name, **facts))]

    def test_clips_count_not_devices(self) -> None:
        metrics, _, fleet = self.evaluate(
            {
                0: self.judge("a", clips=30, correct=30, loss=0.5),
                1: self.judge("b", clips=10, correct=0, loss=2.5),
            }
        )
        assert metrics == Metrics(device_accuracy=0.75, device_loss=1.0)
        plan, weights, _ = fleet.asked[0]
        assert (plan.kind, plan.base, weights) == ("evaluate", base_digest(), DATA)

    def test_no_clips_no_metrics(self) -> None:
        metrics, _, _ = self.evaluate({0: self.judge("a", clips=0)})
        assert metrics == Metrics()

    def test_impossible_or_foreign_answers_are_refused(self) -> None:
        metrics, collected, _ = self.evaluate(
            {
                0: self.judge("a", clips=4, correct=3),
                1: self.judge("b", clips=4, correct=5),
                2: self.judge("c", clips=4, correct=4, kind="train"),
                3: self.judge("d", clips=4, correct=4, base="0" * 64),
                4: lambda plan: ["gone"],
            }
        )
        assert metrics.device_accuracy == 0.75
        codes = [failure.code for failure in collected.failures]
        assert codes == ["FA-3004", "FA-3002", "FA-3006", "FA-5005"]


class TestCohort:
    @given(
        st.lists(st.integers(1, 2**64 - 1), min_size=1, max_size=30, unique=True),
        st.integers(1, 40),
        st.integers(0, 2**32),
        st.integers(0, 10_000),
    )
    def test_so_many_distinct_nodes_of_those_online(
        self, online: list[int], size: int, seed: int, number: int
    ) -> None:
        drawn = draw_cohort(online, size, seed, number)
        assert len(drawn) == len(set(drawn)) == min(size, len(online))
        assert set(drawn) <= set(online)
        assert drawn == draw_cohort(online, size, seed, number)
        assert draw_cohort(online, None, seed, number) == online

    def test_every_node_comes_equally_often(self) -> None:
        drawn = Counter(node for number in range(2000) for node in draw_cohort(range(10), 3, 1, number))
        # 600 expected, standard deviation about 20.
        assert all(500 < drawn[node] < 700 for node in range(10))

    def test_node_identifiers_beyond_float_precision_survive(self) -> None:
        online = [1, 2**53 + 1, 2**63 + 1, 2**63 + 2, 2**64 - 1]
        for number in range(20):
            assert set(draw_cohort(online, 4, 0, number)) <= set(online)


def test_late_replies_are_named_by_node() -> None:
    _, collected, _ = train({1_234_567: lambda plan: [], 2: good("a", 1)})
    assert [(failure.who, failure.code) for failure in collected.failures] == [("node 4567", "FA-5005")]
