"""A round: the mean is that of the honest devices, whatever the others do, and every failure is named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import CoordinatorError
from common.protocol.answer import PrivacySpent, Refusal, Report, encode_answer, encode_refusal
from common.protocol.plan import Plan, Privacy
from common.protocol.release import Metrics
from common.protocol.tensors import Weights
from common.security.sealing import Suite
from fl_server.rounds import Collected, Exchange, Failure, draw_cohort, evaluate_cohort, train_cohort
from fl_server.rules.registry import make_rule
from fl_server.settings import ServerSettings
from tests.fl_server.made_fleet import (
    DATA,
    SCHEMA,
    Behaviour,
    MadeCoordinator,
    MadeDevice,
    MemoryFleet,
    Order,
    base_digest,
    make_delta,
    make_settings,
    rewrite,
)

NAMES = ("first", "second", "third", "fourth", "fifth", "sixth")


@pytest.fixture(scope="module", params=[Suite.HYBRID, None], ids=["sealed", "bare"])
def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    made = House(MadeCoordinator(tmp_path_factory.mktemp("house"), request.param))
    yield made
    made.coordinator.close()


class House:
    """A coordinator and enrolled devices, by name; sealed or bare, a round is the same."""

    def __init__(self, coordinator: MadeCoordinator) -> None:
        self.coordinator = coordinator
        self.devices: dict[str, MadeDevice] = {}

    def __getitem__(self, name: str) -> MadeDevice:
        if name not in self.devices:
            self.devices[name] = self.coordinator.enrol(name)
        return self.devices[name]

    @property
    def sealed(self) -> bool:
        return self.coordinator.suite is not None

    def send(self, name: str, payload: Callable[[MadeDevice, Plan], bytes]) -> Behaviour:
        """The device called `name` sends a payload as its coordinator wants it: in an envelope, or bare."""
        device = self[name]
        if not self.sealed:
            return lambda order: [payload(device, order.plan)]
        return device.says(partial(payload, device))

    def good(self, name: str, seed: int, **changes: object) -> Behaviour:
        """Trains honestly: its delta is `make_delta(seed)`."""
        return self.send(
            name, lambda device, plan: encode_answer(device.report(plan, **changes), make_delta(seed))
        )

    def with_delta(self, name: str, delta: Weights) -> Behaviour:
        return self.send(name, lambda device, plan: encode_answer(device.report(plan), delta))

    def poisoned(self, value: float) -> Behaviour:
        delta = make_delta(9)
        delta["layer"][2, 1] = value
        return self.with_delta("rogue", delta)

    def train(
        self,
        devices: dict[str, Behaviour],
        settings: ServerSettings | None = None,
        order: Sequence[int] | None = None,
        booked: list[Report] | None = None,
    ) -> tuple[Weights, Collected, MemoryFleet]:
        """One round; node 0 is the first of `devices`, and so on."""
        settings, booked = settings or make_settings(), [] if booked is None else booked
        fleet, collected = self.fleet(devices, order), Collected()
        self.coordinator.settings = settings
        exchange = self.coordinator.exchange(fleet.online())
        mean = train(fleet, settings, exchange, collected, booked.append)
        return mean, collected, fleet

    def fleet(self, devices: dict[str, Behaviour], order: Sequence[int] | None = None) -> MemoryFleet:
        ids = {node: self[name].id if self.sealed else "" for node, name in enumerate(devices)}
        return MemoryFleet(dict(enumerate(devices.values())), ids, order)


def train(
    fleet: MemoryFleet,
    settings: ServerSettings,
    exchange: Exchange,
    collected: Collected,
    book: Callable[[Report], None] = lambda report: None,
) -> Weights:
    rule = make_rule(settings, exchange.schema, len(exchange.cohort))
    return train_cohort(fleet, settings, exchange, collected, book, rule)


def claims(device: MadeDevice, plan: Plan) -> bytes:
    return rewrite(encode_answer(device.report(plan), OTHER), b'"clips":10', b'"clips":1000000000')


def renamed(device: MadeDevice, plan: Plan) -> bytes:
    return rewrite(encode_answer(device.report(plan), OTHER), device.id.encode(), b"[/red]" + b"0" * 26)


def cut(device: MadeDevice, plan: Plan) -> bytes:
    return encode_answer(device.report(plan), OTHER)[:-4]


def evaluation(device: MadeDevice, plan: Plan) -> bytes:
    return encode_answer(device.report(plan, kind="evaluate"))


def refusal(device: MadeDevice, plan: Plan) -> bytes:
    return encode_refusal(Refusal(code="FA-2002", reason="No clips."))


def poisoned(value: float) -> Callable[[House], Behaviour]:
    delta = make_delta(9)
    delta["layer"][2, 1] = value
    return with_delta(delta)


def with_delta(delta: Weights) -> Callable[[House], Behaviour]:
    return lambda house: house.with_delta("rogue", delta)


def says(payload: Callable[[MadeDevice, Plan], bytes]) -> Callable[[House], Behaviour]:
    return lambda house: house.send("rogue", payload)


def reports(**changes: object) -> Callable[[House], Behaviour]:
    return lambda house: house.good("rogue", 9, **changes)


OTHER = make_delta(9)
ROGUES: dict[str, tuple[Callable[[House], Behaviour], str]] = {
    "NaN": (poisoned(np.nan), "FA-3003"),
    "infinity": (poisoned(-np.inf), "FA-3003"),
    "a huge value": (poisoned(1e9), "FA-3008"),
    "an infinite norm of finite values": (poisoned(3e38), "FA-3008"),
    "another shape": (with_delta(OTHER | {"bias": np.ones(4, np.float32)}), "FA-3002"),
    "a tensor less": (with_delta({"layer": OTHER["layer"]}), "FA-3002"),
    "a tensor more": (with_delta(OTHER | {"more": np.ones(1, np.float32)}), "FA-3002"),
    "no tensors": (with_delta({}), "FA-3002"),
    "more clips than any device": (says(claims), "FA-3004"),
    "more clips than allowed": (reports(clips=10_001), "FA-3008"),
    "a name that is none": (says(renamed), "FA-3004"),
    "garbage": (says(lambda device, plan: b"\x13" * 1000), "FA-3004"),
    "a pickle": (says(lambda device, plan: b"\x80\x04\x95" + b"." * 90), "FA-3004"),
    "nothing": (says(lambda device, plan: b""), "FA-3004"),
    "an answer cut short": (says(cut), "FA-3001"),
    "another run": (reports(run="f" * 16), "FA-3006"),
    "another round": (reports(round=6), "FA-3006"),
    "another base": (reports(base="0" * 64), "FA-3006"),
    "an evaluation": (says(evaluation), "FA-3006"),
    "a refusal": (says(refusal), "FA-2002"),
    "an error of the transport": (lambda house: lambda order: ["ValueError"], "FA-5005"),
    "silence": (lambda house: lambda order: [None], "FA-5005"),
}


def assert_mean(mean: Weights, seeds: Sequence[int], weights: Sequence[float] | None = None) -> None:
    for name in SCHEMA:
        exact = np.average([make_delta(seed)[name].astype(np.float64) for seed in seeds], 0, weights)
        np.testing.assert_allclose(mean[name], exact, rtol=1e-6, atol=1e-9)


def test_the_mean_of_honest_devices(house: House) -> None:
    devices = {name: house.good(name, seed) for seed, name in enumerate(NAMES[:3], 1)}
    mean, collected, fleet = house.train(devices)
    assert_mean(mean, [1, 2, 3])
    assert [part.device for part in collected.parts] == [house[name].id for name in NAMES[:3]]
    assert len({part.update for part in collected.parts}) == 3
    assert collected.failures == []
    assert set(collected.nodes) == {0, 1, 2}
    plan, weights, nodes = fleet.asked[0]
    assert (plan.base, weights, nodes) == (base_digest(), DATA, (0, 1, 2))
    assert plan.cohort == 3
    assert collected.bytes_down > 3 * len(DATA)
    assert collected.bytes_up > 3 * len(DATA)
    assert set(collected.counters) == ({house[name].id for name in NAMES[:3]} if house.sealed else set())


@pytest.mark.parametrize("what", ROGUES)
def test_a_bad_device_costs_itself_its_place_and_nothing_else(house: House, what: str) -> None:
    rogue, code = ROGUES[what]
    devices = {"first": house.good("first", 1), "rogue": rogue(house), "second": house.good("second", 2)}
    mean, collected, _ = house.train(devices)
    assert_mean(mean, [1, 2])
    assert [part.device for part in collected.parts] == [house["first"].id, house["second"].id]
    assert [failure.code for failure in collected.failures] == [code]
    assert collected.failures[0].reason
    if house.sealed:
        assert (collected.failures[0].who, collected.failures[0].device) == ("rogue", house["rogue"].id)
    else:
        assert collected.failures[0].who in {"node 0001", "rogue"}


def test_the_id_of_an_honest_device_is_of_no_use(house: House) -> None:
    thief = house.good("rogue", 9, device=house["first"].id)
    mean, collected, _ = house.train({"first": house.good("first", 1), "rogue": thief})
    assert_mean(mean, [1])
    assert [failure.code for failure in collected.failures] == ["FA-3058" if house.sealed else "FA-3007"]


def test_a_second_answer_of_one_node_is_not_heard(house: House) -> None:
    def twice(order: Order) -> Sequence[bytes | str | None]:
        return [*house.good("first", 1)(order), *house.good("first", 50)(order)]

    mean, collected, _ = house.train({"first": twice, "second": house.good("second", 2)})
    assert_mean(mean, [1, 2])
    assert len(collected.parts) == 2


def test_a_bad_answer_cannot_be_made_good_by_a_second(house: House) -> None:
    def again(order: Order) -> Sequence[bytes | str | None]:
        return [b"garbage", *house.good("first", 1)(order)]

    mean, collected, _ = house.train({"first": again, "second": house.good("second", 2)})
    assert_mean(mean, [2])
    assert [failure.code for failure in collected.failures] == ["FA-3021" if house.sealed else "FA-3004"]


def test_the_same_answer_again_is_neither_counted_twice_nor_a_failure(house: House) -> None:
    first = house.good("first", 1)
    sent: list[bytes | str | None] = []

    def once(order: Order) -> Sequence[bytes | str | None]:
        sent.extend(first(order))
        return sent

    # Two nodes of one device: it came back with the answer it had kept.
    fleet = MemoryFleet({0: once, 1: lambda order: sent, 2: house.good("second", 2)})
    id_ = house["first"].id if house.sealed else ""
    fleet.ids = {0: id_, 1: id_, 2: house["second"].id if house.sealed else ""}
    settings, collected = make_settings(), Collected()
    exchange = house.coordinator.exchange(fleet.online())
    mean = train(fleet, settings, exchange, collected)
    assert_mean(mean, [1, 2])
    assert collected.failures == []
    assert len(collected.parts) == 2


def test_who_was_not_asked_is_not_heard(house: House) -> None:
    fleet = house.fleet({"first": house.good("first", 1), "second": house.good("second", 2)}, [0, 1])
    collected = Collected()
    exchange = house.coordinator.exchange({0: fleet.online()[0]})
    mean = train(fleet, make_settings(), exchange, collected)
    assert_mean(mean, [1])
    assert collected.failures == []


@given(st.permutations(range(6)))
def test_the_order_of_answers_does_not_change_a_bit(house: House, order: list[int]) -> None:
    devices = {name: house.good(name, seed) for seed, name in enumerate(NAMES)}
    first, _, _ = house.train(devices)
    second, collected, _ = house.train(devices, order=order)
    assert collected.failures == []
    assert all(first[name].tobytes() == second[name].tobytes() for name in SCHEMA)


def test_by_default_claiming_clips_gains_no_weight(house: House) -> None:
    devices = {"first": house.good("first", 1, clips=1), "second": house.good("second", 2, clips=9_999)}
    mean, _, _ = house.train(devices)
    assert_mean(mean, [1, 2])


def test_weighting_by_clips(house: House) -> None:
    settings = make_settings(rounds={"weighting": "clips"})
    devices = {"first": house.good("first", 1, clips=3), "second": house.good("second", 2, clips=1)}
    mean, _, _ = house.train(devices, settings)
    assert_mean(mean, [1, 2], [3, 1])
    mean, _, _ = house.train(devices | {"first": house.good("first", 1, clips=0)}, settings)
    assert_mean(mean, [2])


@pytest.mark.parametrize(
    ("who", "rounds"),
    [
        (("garbage", "silence"), {}),
        (("good", "garbage"), {"min_answers": 2}),
        (("no clips",), {"weighting": "clips"}),
    ],
)
def test_too_few_valid_updates_make_the_round_void(
    house: House, who: tuple[str, ...], rounds: dict[str, object]
) -> None:
    behaviours = {
        "garbage": ROGUES["garbage"][0](house),
        "silence": ROGUES["silence"][0](house),
        "good": house.good("good", 1),
        "no clips": house.good("no clips", 1, clips=0),
    }
    settings, collected = make_settings(rounds=rounds), Collected()
    names = {"garbage": "rogue", "silence": "second", "good": "good", "no clips": "no clips"}
    fleet = house.fleet({names[name]: behaviours[name] for name in who})
    house.coordinator.settings = settings
    exchange = house.coordinator.exchange(fleet.online())
    with pytest.raises(CoordinatorError, match="FA-5004") as caught:
        train(fleet, settings, exchange, collected)
    assert "Round 7" in caught.value.happened
    if collected.failures:
        assert collected.failures[0].reason in caught.value.happened


@pytest.mark.parametrize("limit", [0.5, 64.0, 91.36, 100.0])
def test_updates_right_at_the_limit_are_taken_however_many_there_are(house: House, limit: float) -> None:
    # The largest norm in one value: the sum is then as large as it can be. As a float32, 91.36 is a little
    # more, but the root of its square is not.
    delta = {name: np.zeros(shape, np.float32) for name, shape in SCHEMA.items()}
    delta["bias"][0] = np.float32(limit)
    settings = make_settings(rounds={"max_update_norm": limit})
    devices = {f"d{node}": house.with_delta(f"d{node}", delta) for node in range(17)}
    mean, collected, _ = house.train(devices, settings)
    assert collected.failures == []
    assert mean["bias"][0] == pytest.approx(limit, rel=1e-6)


class TestPrivacy:
    SPENT = PrivacySpent(
        epsilon=1.0, delta=1e-5, accountant="prv", noise_multiplier=1.0, sampling_rate=0.1, steps=10
    )
    SETTINGS = make_settings(
        privacy=Privacy(noise_multiplier=1.0, delta=1e-5, units=0), recipe={"trained": "all", "steps": 10}
    )

    def test_it_is_asked_for(self, house: House) -> None:
        house.coordinator.settings = self.SETTINGS
        assert house.coordinator.exchange({}).plan.privacy == self.SETTINGS.privacy
        house.coordinator.settings = make_settings()
        assert house.coordinator.exchange({}).plan.privacy is None

    def test_an_update_without_it_is_refused(self, house: House) -> None:
        private = house.good("first", 1, privacy=self.SPENT.model_dump())
        mean, collected, _ = house.train({"first": private, "second": house.good("second", 2)}, self.SETTINGS)
        assert_mean(mean, [1])
        assert [failure.code for failure in collected.failures] == ["FA-3009"]

    def test_what_a_refused_update_cost_is_booked(self, house: House) -> None:
        spent = self.SPENT.model_dump()
        devices = {
            "first": house.good("first", 1, privacy=spent),
            "second": house.good("second", 2, clips=99_999, privacy=spent),
        }
        booked: list[Report] = []
        _, collected, _ = house.train(devices, self.SETTINGS, booked=booked)
        assert [failure.code for failure in collected.failures] == ["FA-3008"]
        assert [report.device for report in booked] == [house["first"].id, house["second"].id]

    @pytest.mark.parametrize(
        "wrong",
        [
            {"noise_multiplier": 0.5},
            {"delta": 1e-6},
            {"steps": 11},
            {"noise_multiplier": 0.01, "steps": 10**7},
        ],
    )
    def test_what_cannot_be_true_is_refused_and_not_booked(
        self, house: House, wrong: dict[str, float]
    ) -> None:
        devices = {
            "first": house.good("first", 1, privacy=self.SPENT.model_dump()),
            "second": house.good("second", 2, privacy=self.SPENT.model_dump() | wrong),
        }
        booked: list[Report] = []
        mean, collected, _ = house.train(devices, self.SETTINGS, booked=booked)
        assert_mean(mean, [1])
        assert [failure.code for failure in collected.failures] == ["FA-3009"]
        assert [report.device for report in booked] == [house["first"].id]

    def test_who_tells_how_many_clips_it_has_where_nobody_should_is_refused(self, house: House) -> None:
        private = Privacy(noise_multiplier=1.0, delta=1e-5, units=40)
        settings = make_settings(privacy=private, recipe={"trained": "all", "steps": 10, "batch_size": 4})
        spent = self.SPENT.model_dump()
        devices = {
            "first": house.good("first", 1, clips=40, privacy=spent),
            "second": house.good("second", 2, clips=39, privacy=spent),
            "third": house.good("third", 3, clips=40, privacy=spent | {"sampling_rate": 0.2}),
        }
        mean, collected, _ = house.train(devices, settings)
        assert_mean(mean, [1])
        assert [failure.code for failure in collected.failures] == ["FA-3009", "FA-3009"]

    @pytest.mark.parametrize(("algorithm", "most"), [("fedper", 6), ("fedrep", 15)])
    def test_a_head_that_is_trained_by_itself_costs_steps_too(
        self, house: House, algorithm: str, most: int
    ) -> None:
        """Ten clips are three batches; there are two epochs, and three of the head."""
        recipe = {"algorithm": algorithm, "steps": None, "epochs": 2, "head_epochs": 3, "batch_size": 4}
        recipe |= {"trained": "all"}
        settings = make_settings(privacy=self.SETTINGS.privacy, recipe=recipe)
        for steps, codes in ((most, []), (most + 1, ["FA-3009"])):
            spent = self.SPENT.model_copy(update={"steps": steps}).model_dump()
            devices = {"first": house.good("first", 1, privacy=spent)}
            one = self.SPENT.model_copy(update={"steps": 1}).model_dump()
            devices["second"] = house.good("second", 2, privacy=one)
            _, collected, _ = house.train(devices, settings)
            assert [failure.code for failure in collected.failures] == codes


class TestEvaluation:
    def evaluate(self, house: House, devices: dict[str, Behaviour]) -> tuple[Metrics, Collected, MemoryFleet]:
        collected, fleet = Collected(), house.fleet(devices)
        house.coordinator.settings = make_settings()
        exchange = house.coordinator.exchange(fleet.online(), "evaluate")
        return evaluate_cohort(fleet, exchange, collected), collected, fleet

    @staticmethod
    def judge(house: House, name: str, **facts: object) -> Behaviour:
        return house.send(name, lambda device, plan: encode_answer(device.report(plan, **facts)))

    def test_clips_count_not_devices(self, house: House) -> None:
        metrics, _, fleet = self.evaluate(
            house,
            {
                "first": self.judge(house, "first", clips=30, correct=30, loss=0.5),
                "second": self.judge(house, "second", clips=10, correct=0, loss=2.5),
            },
        )
        assert metrics == Metrics(device_accuracy=0.75, device_loss=1.0)
        plan, weights, _ = fleet.asked[0]
        assert (plan.kind, plan.base, weights) == ("evaluate", base_digest(), DATA)

    def test_no_clips_no_metrics(self, house: House) -> None:
        metrics, _, _ = self.evaluate(house, {"first": self.judge(house, "first", clips=0)})
        assert metrics == Metrics()

    def test_impossible_or_foreign_answers_are_refused(self, house: House) -> None:
        metrics, collected, _ = self.evaluate(
            house,
            {
                "first": self.judge(house, "first", clips=4, correct=3),
                "second": self.judge(house, "second", clips=4, correct=5),
                "third": self.judge(house, "third", clips=4, correct=4, kind="train"),
                "fourth": self.judge(house, "fourth", clips=4, correct=4, base="0" * 64),
                "fifth": lambda order: ["gone"],
            },
        )
        assert metrics.device_accuracy == 0.75
        codes = [failure.code for failure in collected.failures]
        assert codes == ["FA-3004", "FA-3002", "FA-3006", "FA-5005"]


class TestCohort:
    @given(
        st.dictionaries(st.integers(1, 2**64 - 1), st.text(max_size=3), min_size=1, max_size=30),
        st.integers(1, 40),
        st.integers(0, 2**32),
        st.integers(0, 10_000),
    )
    def test_so_many_distinct_nodes_of_those_online(
        self, online: dict[int, str], size: int, seed: int, number: int
    ) -> None:
        drawn = draw_cohort(online, size, seed, number)
        assert len(drawn) == min(size, len(online))
        assert drawn.items() <= online.items()
        assert drawn == draw_cohort(online, size, seed, number)
        assert draw_cohort(online, None, seed, number) == online

    def test_every_node_comes_equally_often(self) -> None:
        online = dict.fromkeys(range(10), "")
        drawn = Counter(node for number in range(2000) for node in draw_cohort(online, 3, 1, number))
        # 600 expected, standard deviation about 20.
        assert all(500 < drawn[node] < 700 for node in range(10))

    def test_node_identifiers_beyond_float_precision_survive(self) -> None:
        online = dict.fromkeys([1, 2**53 + 1, 2**63 + 1, 2**63 + 2, 2**64 - 1], "")
        for number in range(20):
            assert draw_cohort(online, 4, 0, number).keys() <= online.keys()


def test_late_devices_are_named(house: House) -> None:
    fleet = house.fleet({"first": lambda order: [], "second": house.good("second", 1)})
    fleet.devices = {1_234_567: fleet.devices[0], 2: fleet.devices[1]}
    fleet.ids = {1_234_567: fleet.ids[0], 2: fleet.ids[1]}
    collected = Collected()
    exchange = house.coordinator.exchange(fleet.online())
    train(fleet, make_settings(), exchange, collected)
    who, device = ("first", house["first"].id) if house.sealed else ("node 4567", "")
    assert collected.failures == [Failure(who, "FA-5005", "no answer within 600 s", device)]
