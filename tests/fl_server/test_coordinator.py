"""What the coordinator says of privacy, when it refuses to go on, and what it makes of a round."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from common.errors import CoordinatorError
from common.privacy.accounting import compose, privacy_spent
from common.protocol.answer import Refusal, encode_answer, encode_refusal
from common.protocol.plan import Privacy, open_plan, parse_plan
from common.protocol.release import Metrics, Release
from common.protocol.tensors import Weights
from common.security.statement import raw_public
from common.task import Task, Trigger
from fl_server import evidence, versions
from fl_server.coordinator import Coordinator
from fl_server.fleet import FleetLostError
from fl_server.home import CoordinatorHome
from fl_server.initialise import initialise
from fl_server.keyring import ServerKeys
from fl_server.registry import Registry
from fl_server.rotation import rotate
from fl_server.settings import ServerSettings
from fl_server.tables import Contribution, Round, failures_of
from tests.fl_server.made_fleet import Behaviour, MadeDevice, MemoryFleet, Order, change, enrol

TASK = Task(labels=("a", "b"), width=8)
PRIVACY = Privacy(noise_multiplier=1.0)


def make_coordinator(folder: Path, insecure: bool = False, **changes: object) -> Coordinator:
    home = CoordinatorHome(folder)
    settings = ServerSettings.model_validate({"task": TASK} | changes)
    if not home.config.exists():
        initialise(home, settings, names=["127.0.0.1"])
    return Coordinator(home, settings, insecure=insecure)


def publish(coordinator: Coordinator, base: Release) -> Release:
    """The next version, stating what the coordinator would state of it."""
    coordinator._versions.publish(
        base.weights,
        base,
        metrics=Metrics(),
        participants=1,
        privacy=coordinator._largest_spending(base),
        memory=b"",
    )
    return coordinator._versions.current()


def test_a_release_states_the_composition_of_the_device_that_spent_most(tmp_path: Path) -> None:
    coordinator = make_coordinator(tmp_path, privacy=PRIVACY)
    little, much = privacy_spent(PRIVACY, 0.1, 10), privacy_spent(PRIVACY, 0.1, 40)
    for number, (device, spent) in enumerate([("kitchen", little), ("cellar", much), ("cellar", much)]):
        coordinator._registry.note_spending(number, device, spent)
    released = publish(coordinator, coordinator._versions.current())
    stated = released.manifest.privacy
    assert stated is not None
    assert stated.epsilon == pytest.approx(compose([much, much], PRIVACY.delta).epsilon)
    assert stated.epsilon > much.epsilon


def test_nothing_is_stated_of_a_model_with_an_ancestor_that_was_not_private(tmp_path: Path) -> None:
    plain = make_coordinator(tmp_path)
    publish(plain, plain._versions.current())
    private = make_coordinator(tmp_path, privacy=PRIVACY)
    private._registry.note_spending(1, "kitchen", privacy_spent(PRIVACY, 0.1, 10))
    child = publish(private, private._versions.current())
    assert child.manifest.privacy is None
    assert publish(private, child).manifest.privacy is None


@pytest.mark.parametrize(
    "change", [{"labels": ("b", "a")}, {"labels": ("a", "b", "c")}, {"width": 12}, {"clip_seconds": 2.0}]
)
def test_a_changed_task_is_refused_at_the_start(tmp_path: Path, change: dict[str, object]) -> None:
    make_coordinator(tmp_path)._versions.current()
    changed = make_coordinator(tmp_path, task=TASK.model_copy(update=change))
    with pytest.raises(CoordinatorError, match="FA-5012"):
        changed.serve(threading.Event())


def test_the_trigger_may_change(tmp_path: Path) -> None:
    make_coordinator(tmp_path)._versions.current()
    changed = make_coordinator(tmp_path, task=TASK.model_copy(update={"trigger": Trigger(threshold=0.9)}))
    changed._check_task(changed._versions.current())
    stop = threading.Event()
    stop.set()
    changed.serve(stop)


class Household:
    """A coordinator, its devices, and rounds among them without a network."""

    def __init__(self, folder: Path, insecure: bool = False, **rounds: object) -> None:
        self.coordinator = make_coordinator(
            folder,
            insecure,
            rounds={"evaluate": False} | rounds,
            aggregation={"rule": "mean", "mixing": "off", "norm_clipping": 0},
        )
        self.registry: Registry = self.coordinator._registry
        self.devices: dict[str, MadeDevice] = {}
        self.insecure = insecure

    def __getitem__(self, name: str) -> MadeDevice:
        if name not in self.devices:
            self.devices[name] = enrol(self.registry, name)
        return self.devices[name]

    @property
    def base(self) -> Release:
        return self.coordinator._versions.current()

    def delta(self, name: str) -> Weights:
        rng = np.random.default_rng(sum(name.encode()))
        return {
            key: (0.01 * rng.normal(size=value.shape)).astype(np.float32)
            for key, value in self.base.weights.items()
        }

    def honest(self, name: str) -> Behaviour:
        device, delta = self[name], self.delta(name)

        def answer(order: Order) -> Sequence[bytes]:
            plan = order.plan
            payload = encode_answer(device.report(plan), delta if plan.kind == "train" else None)
            return [payload if self.insecure else device.seal(order, payload)]

        return answer

    def fleet(self, devices: dict[str, Behaviour]) -> MemoryFleet:
        keys = [self.coordinator._keys.opening.public]
        ids = {} if self.insecure else {node: self[name].id for node, name in enumerate(devices)}
        return MemoryFleet(dict(enumerate(devices.values())), ids, keys=keys)

    def hold(self, devices: dict[str, Behaviour]) -> Round:
        """One round, whatever becomes of it."""
        return self.hold_with(self.fleet(devices))

    def hold_with(self, fleet: MemoryFleet) -> Round:
        asked = self.registry.open_order() or self.registry.place_order(5)
        with suppress(CoordinatorError, FleetLostError):
            self.coordinator._run_round(fleet, asked)
        return self.registry.rounds()[-1]

    def rounds_in_evidence(self) -> list[dict[str, object]]:
        evidence.verify(self.registry, self.registry.path.with_name("evidence.head"))
        lines = [json.loads(line) for line in evidence.lines(self.registry)]
        return [line for line in lines if line["kind"] == "round"]

    def contributors(self, number: int) -> set[str]:
        names = {device.id: name for name, device in self.devices.items()}
        with self.registry.session() as session:
            rows = session.scalars(select(Contribution).where(Contribution.round == number))
            return {names[row.device] for row in rows}


@pytest.fixture
def household(tmp_path: Path) -> Iterator[Household]:
    made = Household(tmp_path)
    yield made
    made.registry.close()


def assert_mean(household: Household, before: Release, names: Sequence[str]) -> None:
    for key, value in household.base.weights.items():
        mean = np.mean([household.delta(name)[key].astype(np.float64) for name in names], axis=0)
        np.testing.assert_allclose(value, before.weights[key] + mean, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("insecure", [False, True])
def test_a_round(tmp_path: Path, insecure: bool) -> None:
    household = Household(tmp_path, insecure)
    before, names = household.base, ("kitchen", "cellar")
    row = household.hold({name: household.honest(name) for name in names})
    assert (row.state, row.version, row.participants, row.failed) == ("done", 1, 2, 0)
    assert_mean(household, before, names)
    assert household.contributors(1) == set(names)
    (line,) = household.rounds_in_evidence()
    assert (line["round"], line["state"], line["base"], line["version"]) == (1, "done", 0, 1)
    assert len(line["contributions"]) == 2  # type: ignore[arg-type]
    assert line["refusals"] == []
    if not insecure:
        assert {household.registry.device(household[name].id).counter for name in names} == {1}  # type: ignore[union-attr]


def test_plans_are_signed_bound_and_different(household: Household, tmp_path: Path) -> None:
    household.coordinator._settings = household.coordinator._settings.model_copy(
        update={"rounds": household.coordinator._settings.rounds.model_copy(update={"evaluate": True})}
    )
    orders: list[bytes] = []

    def listen(order: Order) -> Sequence[bytes | str | None]:
        orders.append(order.data)
        return household.honest("kitchen")(order)

    household.hold({"kitchen": listen})
    keys = ServerKeys.load(CoordinatorHome(tmp_path), None)
    train, evaluate = (open_plan(data, [raw_public(keys.plan)]) for data in orders)
    assert (train.kind, evaluate.kind) == ("train", "evaluate")
    assert train.nonce != evaluate.nonce
    assert (train.coordinator, train.cohort) == (keys.coordinator, 1)
    assert train.recipient == keys.opening.public.id.hex()
    left = train.expires - datetime.now(UTC).timestamp()
    assert train.seconds - 60 < left < train.seconds + 5


def test_in_the_insecure_mode_plans_are_bare(tmp_path: Path) -> None:
    household, orders = Household(tmp_path, insecure=True), []

    def listen(order: Order) -> Sequence[bytes | str | None]:
        orders.append(order.data)
        return household.honest("kitchen")(order)

    household.hold({"kitchen": listen})
    assert parse_plan(orders[0]).round == 1


def test_a_refusal_is_kept_with_its_code_and_the_devices_name(household: Household) -> None:
    no = Refusal(code="FA-2002", reason="No clips.")
    attic = household["attic"]
    row = household.hold(
        {"kitchen": household.honest("kitchen"), "attic": attic.says(lambda plan: encode_refusal(no))}
    )
    assert failures_of(row) == [
        {"who": "attic", "code": "FA-2002", "reason": "No clips.", "device": attic.id}
    ]
    (line,) = household.rounds_in_evidence()
    assert line["refusals"] == [{"device": attic.id, "code": "FA-2002"}]


@pytest.mark.parametrize(
    "changes",
    [{"state": "revoked"}, {"state": "pending"}, {"expires": datetime.now(UTC) - timedelta(seconds=1)}],
)
def test_who_may_not_take_part_is_not_drawn(household: Household, changes: dict[str, object]) -> None:
    devices = {name: household.honest(name) for name in ("kitchen", "cellar")}
    change(household.registry, household["cellar"], **changes)
    row = household.hold(devices)
    assert (row.cohort, row.participants, row.failed) == (1, 1, 0)
    assert household.contributors(1) == {"kitchen"}


class Brief(threading.Event):
    """Set after it was looked at a few times."""

    looks = 0

    def is_set(self) -> bool:
        self.looks += 1
        return self.looks > 8

    def wait(self, timeout: float | None = None) -> bool:
        return self.is_set()


class SmallFront:
    """A front that needs no replacement."""

    def memory(self) -> int:
        return 0


def test_what_nobody_foresaw_costs_rounds_and_not_the_coordinator(household: Household) -> None:
    def odd(order: Order) -> Sequence[bytes | str | None]:
        raise ZeroDivisionError

    order = household.registry.place_order(1)
    fleet = household.fleet({"kitchen": odd, "cellar": household.honest("cellar")})
    household.coordinator._take_orders(fleet, SmallFront(), Brief())  # type: ignore[arg-type]
    failed = household.registry.order(order.id)
    assert (failed.state, failed.code) == ("failed", "FA-5102")
    assert {row.state for row in household.registry.rounds()} == {"void"}


def test_a_node_that_proved_nothing_is_not_drawn(household: Household) -> None:
    fleet = household.fleet({name: household.honest(name) for name in ("kitchen", "cellar")})
    fleet.ids = {0: household["kitchen"].id, 1: ""}
    assert household.hold_with(fleet).cohort == 1


class TestRevokedMeanwhile:
    def revoke(self, household: Household, name: str) -> None:
        change(household.registry, household[name], state="revoked")

    def test_before_its_update_came(self, household: Household) -> None:
        def late(order: Order) -> Sequence[bytes | str | None]:
            answer = household.honest("cellar")(order)
            self.revoke(household, "cellar")
            return answer

        before = household.base
        row = household.hold({"kitchen": household.honest("kitchen"), "cellar": late})
        assert (row.state, row.participants) == ("done", 1)
        assert [failure["code"] for failure in failures_of(row)] == ["FA-5048"]
        assert_mean(household, before, ["kitchen"])
        assert household.contributors(1) == {"kitchen"}

    def test_after_its_update_was_added(self, household: Household) -> None:
        def busy(order: Order) -> Sequence[bytes | str | None]:
            self.revoke(household, "cellar")  # node 0 has answered
            return household.honest("kitchen")(order)

        before, devices = household.base, {"cellar": household.honest("cellar"), "kitchen": busy}
        row = household.hold(devices)
        assert (row.state, row.version) == ("void", None)
        assert household.base.version == 0
        assert household.contributors(1) == set()
        (line,) = household.rounds_in_evidence()
        assert (line["state"], line["code"]) == ("void", "FA-5100")
        assert len(line["contributions"]) == 2  # type: ignore[arg-type]
        # The next round is held without it, and the order goes on.
        row = household.hold(devices | {"kitchen": household.honest("kitchen")})
        assert (row.state, row.cohort, row.version) == ("done", 1, 1)
        assert_mean(household, before, ["kitchen"])

    def test_while_the_candidate_was_evaluated(self, tmp_path: Path) -> None:
        household = Household(tmp_path, evaluate=True)

        def busy(order: Order) -> Sequence[bytes | str | None]:
            if order.plan.kind == "evaluate":
                self.revoke(household, "cellar")
            return household.honest("kitchen")(order)

        row = household.hold({"kitchen": busy, "cellar": household.honest("cellar")})
        assert (row.state, household.base.version) == ("void", 0)

    def test_at_the_very_moment_of_the_release(
        self, household: Household, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        golden = versions._golden

        def late(*arguments: Any) -> Any:
            self.revoke(household, "cellar")
            return golden(*arguments)

        devices = {name: household.honest(name) for name in ("kitchen", "cellar")}
        assert household.base.version == 0
        monkeypatch.setattr(versions, "_golden", late)
        row = household.hold(devices)
        assert (row.state, household.base.version) == ("void", 0)

    def test_it_does_not_count_against_the_order(self, household: Household) -> None:
        order = household.registry.place_order(1)
        for _ in range(5):
            error = CoordinatorError("FA-5100", "Revoked.", "Nothing.")
            household.coordinator._count_void(order, error, final=False)
        assert household.registry.order(order.id).state == "open"


def test_a_void_round_leaves_its_counters_and_its_line(household: Household) -> None:
    household.coordinator._settings = household.coordinator._settings.model_copy(
        update={"rounds": household.coordinator._settings.rounds.model_copy(update={"min_answers": 2})}
    )
    row = household.hold({"kitchen": household.honest("kitchen"), "cellar": lambda order: [None]})
    assert (row.state, row.failed) == ("void", 1)
    assert household.registry.device(household["kitchen"].id).counter == 1  # type: ignore[union-attr]
    (line,) = household.rounds_in_evidence()
    assert (line["state"], line["code"], line["version"]) == ("void", "FA-5004", None)
    assert household.contributors(1) == set()


def test_the_transport_lost_in_a_round(household: Household) -> None:
    def lost(order: Order) -> Sequence[bytes | str | None]:
        raise FleetLostError("gone")

    row = household.hold({"kitchen": household.honest("kitchen"), "cellar": lost})
    assert row.state == "void"
    assert household.registry.device(household["kitchen"].id).counter == 1  # type: ignore[union-attr]
    (line,) = household.rounds_in_evidence()
    assert line["code"] == "FA-5014"


class TestAfterACrash:
    def interrupted(self, household: Household) -> Round:
        """A round that its coordinator did not live to end."""
        order = household.registry.place_order(1)
        row = Round(round=1, order=order.id, base=0, state="running", started=datetime.now(UTC))
        with household.registry.session() as session:
            session.add(row)
        return row

    def settle(self, household: Household) -> Round:
        stop = threading.Event()
        stop.set()
        household.coordinator.serve(stop)
        return household.registry.rounds()[-1]

    def test_a_round_without_a_version_is_void(self, household: Household) -> None:
        assert household.base.version == 0
        self.interrupted(household)
        assert self.settle(household).state == "void"
        (line,) = household.rounds_in_evidence()
        assert line["code"] == "FA-5101"

    def test_a_round_that_had_released_its_version_is_done(self, household: Household) -> None:
        base = household.base
        row = self.interrupted(household)
        with household.registry.session() as session:
            session.add(
                Contribution(
                    round=1, device="d" * 32, clips=1, skipped=0, loss=0.0, seconds=0.0, update="e" * 64
                )
            )
        publish(household.coordinator, base)
        settled = self.settle(household)
        assert (settled.state, settled.version, settled.participants) == ("done", 1, 1)
        assert household.registry.order(row.order).state == "done"
        (line,) = household.rounds_in_evidence()
        assert line["contributions"] == [{"device": "d" * 32, "update": "e" * 64}]

    def test_a_rollback_meanwhile_is_not_the_rounds_version(self, household: Household) -> None:
        publish(household.coordinator, household.base)
        row = self.interrupted(household)
        with household.registry.session() as session:
            session.merge(row).base = 1
        household.coordinator._versions.rollback(0)
        assert self.settle(household).state == "void"


def test_rotated_keys_are_seen_and_used(household: Household, tmp_path: Path) -> None:
    coordinator = household.coordinator
    before = coordinator._keys
    assert coordinator._stamp_keys() == coordinator._keys_stamp
    rotate(
        CoordinatorHome(tmp_path),
        household.registry,
        coordinator._settings.devices,
        None,
        ["plan", "envelope"],
    )
    assert coordinator._stamp_keys() != coordinator._keys_stamp
    coordinator._load_keys()
    assert coordinator._stamp_keys() == coordinator._keys_stamp
    assert raw_public(coordinator._keys.plan) != raw_public(before.plan)
    assert coordinator._keys.opening.public.id != before.opening.public.id
    row = household.hold({"kitchen": household.honest("kitchen")})
    assert (row.state, row.participants) == ("done", 1)
