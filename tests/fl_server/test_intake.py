"""The intake: an answer counts if it is this device's, to this plan, now, whole and new."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from common.errors import FedAudioError
from common.protocol.answer import LARGEST_NOTE, Answer, Refusal, encode_answer, encode_refusal
from common.protocol.tensors import encoded_size
from common.security.envelope import HEADER_BYTES, LARGEST_OVERHEAD, SIGNATURE_BYTES
from common.security.sealing import OpeningKey, Suite
from common.security.statement import raw_public
from fl_server.intake import BareIntake, Received, SealedIntake
from fl_server.rounds import Exchange
from tests.fl_server.made_fleet import (
    OPENING,
    SCHEMA,
    MadeCoordinator,
    MadeDevice,
    Order,
    make_delta,
    rewrite,
)


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[MadeCoordinator]:
    made = MadeCoordinator(tmp_path)
    yield made
    made.close()


@pytest.fixture
def kitchen(coordinator: MadeCoordinator) -> MadeDevice:
    return coordinator.enrol("kitchen")


def order_of(exchange: Exchange) -> Order:
    return Order(exchange.plan, exchange.order)


def answer(device: MadeDevice, order: Order, seed: int = 1, **changes: object) -> bytes:
    return encode_answer(device.report(order.plan, **changes), make_delta(seed))


def read(exchange: Exchange, data: bytes, device: MadeDevice) -> Received | None:
    return exchange.intake.read(data, device.id)


def refused(exchange: Exchange, data: bytes | memoryview, device: str) -> str:
    """The code with which `data` is refused, and that it left no trace."""
    before = exchange.intake.counters()
    with pytest.raises(FedAudioError) as caught:
        exchange.intake.read(data, device)
    assert caught.value.happened
    assert caught.value.remedy
    assert exchange.intake.counters() == before
    return caught.value.code


@pytest.mark.parametrize("suite", Suite)
def test_an_honest_answer(tmp_path: Path, suite: Suite) -> None:
    coordinator = MadeCoordinator(tmp_path, suite)
    kitchen = coordinator.enrol("kitchen")
    exchange = coordinator.exchange({1: kitchen.id})
    order = order_of(exchange)
    received = read(exchange, kitchen.seal(order, answer(kitchen, order)), kitchen)
    assert received is not None
    assert received.sender is not None
    assert (received.sender.id, received.sender.name) == (kitchen.id, "kitchen")
    assert isinstance(received.answer, Answer)
    for name, value in make_delta(1).items():
        assert received.answer.delta[name].tobytes() == value.tobytes()
    assert len(received.digest) == 64
    assert exchange.intake.counters() == {kitchen.id: 1}
    coordinator.close()


def test_a_sealed_refusal(coordinator: MadeCoordinator, kitchen: MadeDevice) -> None:
    exchange = coordinator.exchange({1: kitchen.id})
    no = Refusal(code="FA-2002", reason="No clips.")
    received = read(exchange, kitchen.seal(order_of(exchange), encode_refusal(no)), kitchen)
    assert received is not None
    assert received.answer == no
    assert received.sender is not None
    assert received.sender.name == "kitchen"


NO_ROUND: dict[str, object] = {"run": bytes(8), "round": 0, "base": bytes(32)}


def test_who_does_not_trust_the_plan_can_refuse_it_but_not_obey_it(
    coordinator: MadeCoordinator, kitchen: MadeDevice
) -> None:
    exchange = coordinator.exchange({1: kitchen.id})
    order, no = order_of(exchange), Refusal(code="FA-4021", reason="The plan has expired.")
    later = {"not_after": int(time.time()) + 100_000}
    obeys = kitchen.seal(order, answer(kitchen, order), **NO_ROUND, **later)
    with pytest.raises(FedAudioError, match="FA-3052"):
        read(exchange, obeys, kitchen)
    exchange = coordinator.exchange({1: kitchen.id})
    order = order_of(exchange)
    received = read(exchange, kitchen.seal(order, encode_refusal(no), **NO_ROUND, **later), kitchen)
    assert received is not None
    assert received.answer == no
    exchange = coordinator.exchange({1: kitchen.id})
    stale = kitchen.seal(order, encode_refusal(no), **NO_ROUND, **later)
    assert refused(exchange, stale, kitchen.id) == "FA-3054"


class TestWho:
    def test_signed_by_one_and_sent_as_another(
        self, coordinator: MadeCoordinator, kitchen: MadeDevice
    ) -> None:
        cellar = coordinator.enrol("cellar")
        exchange = coordinator.exchange({1: kitchen.id, 2: cellar.id})
        order = order_of(exchange)
        honest = kitchen.seal(order, answer(kitchen, order))
        # The whole envelope in another's place, before and after it came itself.
        assert refused(exchange, honest, cellar.id) == "FA-3050"
        assert read(exchange, honest, kitchen) is not None
        assert refused(exchange, honest, cellar.id) == "FA-3050"
        # In its own place, in another's name.
        forged = cellar.seal(order, answer(kitchen, order), device=bytes.fromhex(kitchen.id), counter=9)
        assert refused(exchange, forged, cellar.id) == "FA-3050"
        # In another's place and name, with its own signature: the transport was deceived too.
        exchange = coordinator.exchange({1: kitchen.id, 2: cellar.id})
        order = order_of(exchange)
        forged = cellar.seal(order, answer(kitchen, order), device=bytes.fromhex(kitchen.id), counter=10)
        assert refused(exchange, forged, kitchen.id) == "FA-3023"

    def test_a_report_in_anothers_name(self, coordinator: MadeCoordinator, kitchen: MadeDevice) -> None:
        cellar = coordinator.enrol("cellar")
        exchange = coordinator.exchange({1: kitchen.id})
        order = order_of(exchange)
        with pytest.raises(FedAudioError, match="FA-3058"):
            read(exchange, kitchen.seal(order, answer(cellar, order)), kitchen)

    def test_nobody_is_asked_so_nobody_answers(
        self, coordinator: MadeCoordinator, kitchen: MadeDevice
    ) -> None:
        exchange = coordinator.exchange({1: ""})
        order = order_of(exchange)
        assert refused(exchange, kitchen.seal(order, answer(kitchen, order)), "") == "FA-3050"

    @pytest.mark.parametrize(
        ("changes", "code"),
        [
            ({"state": "revoked"}, "FA-5048"),
            ({"state": "pending"}, "FA-5053"),
            ({"expires": datetime.now(UTC) - timedelta(seconds=1)}, "FA-5052"),
            ({"expires": None}, "FA-5053"),
        ],
    )
    def test_who_may_not_take_part_any_more(
        self, coordinator: MadeCoordinator, kitchen: MadeDevice, changes: dict[str, object], code: str
    ) -> None:
        exchange = coordinator.exchange({1: kitchen.id})
        order = order_of(exchange)
        sealed = kitchen.seal(order, answer(kitchen, order))
        coordinator.change(kitchen, **changes)
        assert refused(exchange, sealed, kitchen.id) == code
        coordinator.change(kitchen, state="active", expires=datetime.now(UTC) + timedelta(days=1))
        assert read(exchange, sealed, kitchen) is not None

    def test_a_stranger(self, coordinator: MadeCoordinator) -> None:
        stranger = MadeDevice("stranger")
        exchange = coordinator.exchange({1: stranger.id})
        order = order_of(exchange)
        assert refused(exchange, stranger.seal(order, answer(stranger, order)), stranger.id) == "FA-5050"

    def test_the_key_before_a_rotation(self, coordinator: MadeCoordinator, kitchen: MadeDevice) -> None:
        exchange = coordinator.exchange({1: kitchen.id})
        order, new = order_of(exchange), Ed25519PrivateKey.generate()
        old = kitchen.seal(order, answer(kitchen, order))
        coordinator.change(kitchen, identity=raw_public(new).hex())
        assert refused(exchange, old, kitchen.id) == "FA-3023"
        assert read(exchange, kitchen.seal(order, answer(kitchen, order), signer=new), kitchen) is not None


class TestWhich:
    """The envelope says what it is an answer to, and all of it must be so."""

    @pytest.mark.parametrize(
        ("changes", "code"),
        [
            ({"run": b"elsewher"}, "FA-3052"),
            ({"round": 6}, "FA-3053"),
            ({"plan": hashlib.sha256(b"another").digest()}, "FA-3054"),
            ({"base": bytes(31) + b"1"}, "FA-3055"),
            ({"not_after": 0}, "FA-3056"),
            ({"counter": 0}, "FA-3057"),
        ],
    )
    def test_another(
        self, coordinator: MadeCoordinator, kitchen: MadeDevice, changes: dict[str, object], code: str
    ) -> None:
        exchange = coordinator.exchange({1: kitchen.id})
        order = order_of(exchange)
        assert refused(exchange, kitchen.seal(order, answer(kitchen, order), **changes), kitchen.id) == code

    @pytest.mark.parametrize(
        "changes", [{"run": "f" * 16}, {"round": 6}, {"base": "0" * 64}, {"kind": "evaluate"}]
    )
    def test_a_report_that_contradicts_its_envelope(
        self, coordinator: MadeCoordinator, kitchen: MadeDevice, changes: dict[str, object]
    ) -> None:
        exchange = coordinator.exchange({1: kitchen.id})
        order = order_of(exchange)
        delta = None if "kind" in changes else make_delta(1)
        payload = encode_answer(kitchen.report(order.plan, **changes), delta)
        with pytest.raises(FedAudioError, match="FA-3006"):
            read(exchange, kitchen.seal(order, payload), kitchen)

    def test_a_training_where_an_evaluation_was_asked(
        self, coordinator: MadeCoordinator, kitchen: MadeDevice
    ) -> None:
        exchange = coordinator.exchange({1: kitchen.id}, "evaluate")
        order = order_of(exchange)
        with pytest.raises(FedAudioError, match="FA-3006"):
            read(exchange, kitchen.seal(order, answer(kitchen, order, kind="train")), kitchen)

    def test_more_right_than_evaluated(self, coordinator: MadeCoordinator, kitchen: MadeDevice) -> None:
        exchange = coordinator.exchange({1: kitchen.id}, "evaluate")
        payload = encode_answer(kitchen.report(exchange.plan, clips=3, correct=4))
        with pytest.raises(FedAudioError, match="FA-3004"):
            read(exchange, kitchen.seal(order_of(exchange), payload), kitchen)

    def test_the_plan_for_training_and_that_for_evaluating_differ(
        self, coordinator: MadeCoordinator, kitchen: MadeDevice
    ) -> None:
        train, again = coordinator.exchange({1: kitchen.id}), coordinator.exchange({1: kitchen.id})
        order = order_of(train)
        assert train.plan.nonce != again.plan.nonce
        assert refused(again, kitchen.seal(order, answer(kitchen, order)), kitchen.id) == "FA-3054"


class TestReplay:
    def test_the_same_again_is_harmless(self, coordinator: MadeCoordinator, kitchen: MadeDevice) -> None:
        exchange = coordinator.exchange({1: kitchen.id})
        order = order_of(exchange)
        sealed = kitchen.seal(order, answer(kitchen, order))
        assert read(exchange, sealed, kitchen) is not None
        assert read(exchange, sealed, kitchen) is None
        assert read(exchange, sealed, kitchen) is None
        assert exchange.intake.counters() == {kitchen.id: 1}

    def test_the_same_again_is_harmless_also_if_it_was_no_good(
        self, coordinator: MadeCoordinator, kitchen: MadeDevice
    ) -> None:
        exchange = coordinator.exchange({1: kitchen.id})
        sealed = kitchen.seal(order_of(exchange), b"\x01\0\0\0\0")
        with pytest.raises(FedAudioError, match="FA-3004"):
            read(exchange, sealed, kitchen)
        assert read(exchange, sealed, kitchen) is None

    def test_another_answer_is_refused(self, coordinator: MadeCoordinator, kitchen: MadeDevice) -> None:
        exchange = coordinator.exchange({1: kitchen.id})
        order = order_of(exchange)
        assert read(exchange, kitchen.seal(order, answer(kitchen, order)), kitchen) is not None
        again = kitchen.seal(order, answer(kitchen, order, seed=2))
        assert refused(exchange, again, kitchen.id) == "FA-3007"
        old = kitchen.seal(order, answer(kitchen, order, seed=2), counter=1)
        assert refused(exchange, old, kitchen.id) == "FA-3057"

    def test_what_was_answered_before_is_not_an_answer_now(
        self, coordinator: MadeCoordinator, kitchen: MadeDevice
    ) -> None:
        first = coordinator.exchange({1: kitchen.id}, number=7)
        order = order_of(first)
        sealed = kitchen.seal(order, answer(kitchen, order))
        assert read(first, sealed, kitchen) is not None
        for later in (
            coordinator.exchange({1: kitchen.id}, number=7),
            coordinator.exchange({1: kitchen.id}, number=8),
            coordinator.exchange({1: kitchen.id}, number=7, run="f" * 16),
        ):
            assert refused(later, sealed, kitchen.id) in {"FA-3052", "FA-3053", "FA-3054"}

    @pytest.mark.parametrize("counter", [1, 41, 42])
    def test_a_counter_that_was_used_before(
        self, coordinator: MadeCoordinator, kitchen: MadeDevice, counter: int
    ) -> None:
        coordinator.change(kitchen, counter=42)
        exchange = coordinator.exchange({1: kitchen.id})
        order = order_of(exchange)
        old = kitchen.seal(order, answer(kitchen, order), counter=counter)
        assert refused(exchange, old, kitchen.id) == "FA-3057"
        assert read(exchange, kitchen.seal(order, answer(kitchen, order), counter=43), kitchen) is not None

    @pytest.mark.parametrize("counter", [2**53 + 1, 2**63, 2**64 - 1])
    def test_a_counter_that_no_database_could_keep(
        self, coordinator: MadeCoordinator, kitchen: MadeDevice, counter: int
    ) -> None:
        exchange = coordinator.exchange({1: kitchen.id})
        order = order_of(exchange)
        huge = kitchen.seal(order, answer(kitchen, order), counter=counter)
        assert refused(exchange, huge, kitchen.id) == "FA-3021"
        assert read(exchange, kitchen.seal(order, answer(kitchen, order), counter=2**53), kitchen) is not None

    def test_a_forgery_uses_up_no_counter(self, coordinator: MadeCoordinator, kitchen: MadeDevice) -> None:
        exchange = coordinator.exchange({1: kitchen.id})
        order = order_of(exchange)
        forged = kitchen.seal(
            order, answer(kitchen, order), signer=Ed25519PrivateKey.generate(), counter=2**53
        )
        assert refused(exchange, forged, kitchen.id) == "FA-3023"
        assert read(exchange, kitchen.seal(order, answer(kitchen, order)), kitchen) is not None


class TestSealing:
    def test_a_weaker_suite_than_the_plan_asks_for(
        self, coordinator: MadeCoordinator, kitchen: MadeDevice
    ) -> None:
        exchange = coordinator.exchange({1: kitchen.id})
        order = order_of(exchange)
        weak = kitchen.seal(order, answer(kitchen, order), recipient=OPENING[Suite.X25519].public)
        assert refused(exchange, weak, kitchen.id) == "FA-3051"

    def test_half_of_the_hybrid_key(self, coordinator: MadeCoordinator, kitchen: MadeDevice) -> None:
        exchange = coordinator.exchange({1: kitchen.id})
        order, half = order_of(exchange), OpeningKey(OPENING[Suite.HYBRID].x25519, None)
        sealed = kitchen.seal(order, answer(kitchen, order), recipient=half.public)
        assert refused(exchange, sealed, kitchen.id) == "FA-3051"

    def test_another_key_of_the_same_suite(self, coordinator: MadeCoordinator, kitchen: MadeDevice) -> None:
        exchange = coordinator.exchange({1: kitchen.id})
        order, other = order_of(exchange), OpeningKey.generate(Suite.HYBRID)
        sealed = kitchen.seal(order, answer(kitchen, order), recipient=other.public)
        assert refused(exchange, sealed, kitchen.id) == "FA-3024"

    def test_a_bare_answer(self, coordinator: MadeCoordinator, kitchen: MadeDevice) -> None:
        exchange = coordinator.exchange({1: kitchen.id})
        assert refused(exchange, answer(kitchen, order_of(exchange)), kitchen.id) == "FA-3021"

    def test_nothing_is_opened_before_its_signature_is_checked(
        self, coordinator: MadeCoordinator, kitchen: MadeDevice
    ) -> None:
        exchange = coordinator.exchange({1: kitchen.id})
        order = order_of(exchange)
        data = bytearray(kitchen.seal(order, answer(kitchen, order)))
        data[HEADER_BYTES] ^= 1  # in the ciphertext
        assert refused(exchange, bytes(data), kitchen.id) == "FA-3023"


BAD_PAYLOADS: dict[str, tuple[Callable[[MadeDevice, Order], bytes], str]] = {
    "NaN": (
        lambda device, order: encode_answer(
            device.report(order.plan), make_delta(1) | {"bias": np.array([1, np.nan, 1], np.float32)}
        ),
        "FA-3003",
    ),
    "another shape": (
        lambda device, order: encode_answer(
            device.report(order.plan), make_delta(1) | {"bias": np.ones(4, np.float32)}
        ),
        "FA-3002",
    ),
    "garbage": (lambda device, order: b"\x80\x04\x95" + bytes(100), "FA-3004"),
    "nothing": (lambda device, order: b"", "FA-3004"),
    "absurd counts": (
        lambda device, order: rewrite(answer(device, order), b'"clips":10', b'"clips":10000000'),
        "FA-3004",
    ),
    "two refusals": (
        lambda device, order: encode_refusal(Refusal(code="FA-2002", reason="No.")) * 2,
        "FA-3004",
    ),
    "a key twice": (
        lambda device, order: rewrite(answer(device, order), b'"clips":10', b'"clips":10,"clips":10'),
        "FA-3004",
    ),
    "another spelling of a number": (
        lambda device, order: rewrite(answer(device, order), b'"clips":10', b'"clips":1e1'),
        "FA-3004",
    ),
    "a refusal with control characters": (
        lambda device, order: rewrite(
            encode_refusal(Refusal(code="FA-2002", reason="No.")), b"No.", b"\\u001b[2J"
        ),
        "FA-3004",
    ),
}


@pytest.mark.parametrize("what", BAD_PAYLOADS)
def test_a_perfect_envelope_around_something_bad(
    coordinator: MadeCoordinator, kitchen: MadeDevice, what: str
) -> None:
    payload, code = BAD_PAYLOADS[what]
    exchange = coordinator.exchange({1: kitchen.id})
    order = order_of(exchange)
    with pytest.raises(FedAudioError, match=code):
        read(exchange, kitchen.seal(order, payload(kitchen, order)), kitchen)


class TestSize:
    LIMIT = 5 + LARGEST_NOTE + encoded_size(SCHEMA) + LARGEST_OVERHEAD

    def test_too_large_is_refused_unread(self, coordinator: MadeCoordinator, kitchen: MadeDevice) -> None:
        exchange = coordinator.exchange({1: kitchen.id})
        assert refused(exchange, bytes(self.LIMIT + 1), kitchen.id) == "FA-3022"
        assert refused(exchange, bytes(self.LIMIT), kitchen.id) == "FA-3021"

    def test_an_evaluation_has_no_room_for_tensors(
        self, coordinator: MadeCoordinator, kitchen: MadeDevice
    ) -> None:
        exchange = coordinator.exchange({1: kitchen.id}, "evaluate")
        largest = self.LIMIT - encoded_size(SCHEMA)
        assert refused(exchange, bytes(largest + 1), kitchen.id) == "FA-3022"
        assert refused(exchange, bytes(largest), kitchen.id) == "FA-3021"

    def test_the_largest_honest_answer_has_room(
        self, coordinator: MadeCoordinator, kitchen: MadeDevice
    ) -> None:
        exchange = coordinator.exchange({1: kitchen.id})
        order = order_of(exchange)
        sealed = kitchen.seal(order, answer(kitchen, order, loss=1 / 3, seconds=1 / 7))
        assert read(exchange, sealed, kitchen) is not None


@pytest.fixture(scope="module")
def sealed(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[MadeCoordinator, MadeDevice, Exchange, bytes]]:
    coordinator = MadeCoordinator(tmp_path_factory.mktemp("sealed"))
    kitchen = coordinator.enrol("kitchen")
    exchange = coordinator.exchange({1: kitchen.id})
    order = order_of(exchange)
    yield coordinator, kitchen, exchange, kitchen.seal(order, answer(kitchen, order))
    coordinator.close()


Sealed = tuple[MadeCoordinator, MadeDevice, Exchange, bytes]


def fresh(coordinator: MadeCoordinator, exchange: Exchange) -> SealedIntake:
    return SealedIntake(
        coordinator.senders, OPENING[Suite.HYBRID], exchange.plan, exchange.order, exchange.schema
    )


def assert_refused(intake: SealedIntake, data: bytes, device: MadeDevice) -> None:
    with pytest.raises(FedAudioError):
        intake.read(data, device.id)
    assert intake.counters() == {}


def test_a_flipped_bit_in_every_byte_is_refused_and_changes_nothing(sealed: Sealed) -> None:
    coordinator, kitchen, exchange, data = sealed
    intake = fresh(coordinator, exchange)
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1 << place % 8
        assert_refused(intake, bytes(changed), kitchen)
    assert intake.read(data, kitchen.id) is not None


@given(st.data())
def test_any_single_flipped_bit_is_refused_and_changes_nothing(sealed: Sealed, choice: st.DataObject) -> None:
    coordinator, kitchen, exchange, data = sealed
    bit = choice.draw(st.integers(0, 8 * len(data) - 1))
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    intake = fresh(coordinator, exchange)
    assert_refused(intake, bytes(changed), kitchen)
    assert intake.read(data, kitchen.id) is not None


def test_cut_short_anywhere_or_with_something_behind_is_refused(sealed: Sealed) -> None:
    coordinator, kitchen, exchange, data = sealed
    intake = fresh(coordinator, exchange)
    for length in range(len(data)):
        assert_refused(intake, data[:length], kitchen)
    assert_refused(intake, data + b"\0", kitchen)
    assert_refused(intake, data + data, kitchen)
    assert_refused(intake, data[SIGNATURE_BYTES:] + data[:SIGNATURE_BYTES], kitchen)
    assert intake.read(memoryview(data), kitchen.id) is not None


@given(st.binary(max_size=4000))
def test_garbage_is_refused(sealed: Sealed, garbage: bytes) -> None:
    coordinator, kitchen, exchange, data = sealed
    assert_refused(fresh(coordinator, exchange), garbage, kitchen)
    assert_refused(fresh(coordinator, exchange), data[:HEADER_BYTES] + garbage, kitchen)


class TestBare:
    """Where nothing is sealed, devices are believed; but they must be enrolled, and plans must match."""

    @pytest.fixture
    def coordinator(self, tmp_path: Path) -> Iterator[MadeCoordinator]:
        made = MadeCoordinator(tmp_path, suite=None)
        yield made
        made.close()

    def test_the_device_is_the_one_in_the_report(
        self, coordinator: MadeCoordinator, kitchen: MadeDevice
    ) -> None:
        exchange = coordinator.exchange({1: ""})
        assert isinstance(exchange.intake, BareIntake)
        received = exchange.intake.read(answer(kitchen, order_of(exchange)), "")
        assert received is not None
        assert received.sender is not None
        assert received.sender.id == kitchen.id
        assert exchange.intake.counters() == {}

    def test_only_enrolled_devices(self, coordinator: MadeCoordinator, kitchen: MadeDevice) -> None:
        exchange = coordinator.exchange({1: ""})
        order = order_of(exchange)
        assert refused(exchange, answer(MadeDevice("stranger"), order), "") == "FA-5050"
        coordinator.change(kitchen, state="revoked")
        assert refused(exchange, answer(kitchen, order), "") == "FA-5048"

    def test_once(self, coordinator: MadeCoordinator, kitchen: MadeDevice) -> None:
        exchange = coordinator.exchange({1: "", 2: ""})
        order = order_of(exchange)
        assert exchange.intake.read(answer(kitchen, order), "") is not None
        assert exchange.intake.read(answer(kitchen, order), "") is None
        assert refused(exchange, answer(kitchen, order, seed=2), "") == "FA-3007"

    def test_a_refused_answer_does_not_use_up_a_devices_place(
        self, coordinator: MadeCoordinator, kitchen: MadeDevice
    ) -> None:
        exchange = coordinator.exchange({1: "", 2: ""})
        order = order_of(exchange)
        assert refused(exchange, answer(kitchen, order, round=6), "") == "FA-3006"
        assert exchange.intake.read(answer(kitchen, order), "") is not None

    def test_size_and_refusals(self, coordinator: MadeCoordinator) -> None:
        exchange = coordinator.exchange({1: ""})
        assert refused(exchange, bytes(TestSize.LIMIT - LARGEST_OVERHEAD + 1), "") == "FA-3022"
        no = Refusal(code="FA-2002", reason="No clips.")
        received = exchange.intake.read(encode_refusal(no), "")
        assert received is not None
        assert (received.answer, received.sender) == (no, None)
