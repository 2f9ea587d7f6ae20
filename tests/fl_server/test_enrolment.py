"""Enrolment, step by step: what is asked for, what is taken, and that secrets stay secret."""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from common.errors import CoordinatorError, FedAudioError, ProtocolError
from common.protocol.enrolment import Enrolled, EnrolmentRequest
from fl_server import evidence
from fl_server.authority import DeviceAuthority
from fl_server.enrolment import NEW_KEYS_A_DAY, approve, enrol, renew, revoke
from fl_server.home import CoordinatorHome
from fl_server.registry import Registry, Token, utc
from fl_server.rotation import rotate
from fl_server.settings import DeviceRules
from fl_server.tokens import make_token, open_tokens, token_digest, token_name, withdraw_token
from tests.fl_server.made_devices import MadeDevice

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
RULES = DeviceRules()

Enrol = Callable[..., Enrolled]


@pytest.fixture
def enter(registry: Registry, authority: DeviceAuthority) -> Enrol:
    """Enrols a device, by default with a token of its own."""

    def act(
        device: MadeDevice, token: bytes | None = None, rules: DeviceRules = RULES, now: datetime = NOW
    ) -> Enrolled:
        token = token or make_token(registry, HOUR, 1, now)
        return enrol(registry, authority, rules, device.request(token), now)

    return act


def kinds(registry: Registry) -> list[str]:
    return [line.split('"kind":"')[1].split('"')[0] for line in evidence.lines(registry)]


class TestEnrolment:
    def test_a_device_gets_a_certificate_for_its_keys(
        self, registry: Registry, authority: DeviceAuthority, enter: Enrol
    ) -> None:
        device = MadeDevice("kitchen")
        answer = enter(device, rules=DeviceRules(certificate_days=30))
        says = authority.read(answer.certificate)
        assert (answer.state, says.device, says.name) == ("active", answer.device, "kitchen")
        assert says.identity == device.raw
        assert (says.begins, says.ends) == (NOW, NOW + timedelta(days=30))
        row = registry.active_device(answer.device, NOW)
        assert (row.node_key, row.certificate) == (device.node_pem, answer.certificate)
        assert kinds(registry) == ["fleet-created", "token-made", "enrolled"]

    def test_a_token_is_good_as_often_as_was_said(self, registry: Registry, enter: Enrol) -> None:
        token = make_token(registry, HOUR, 2, NOW)
        for name in ("a", "b"):
            enter(MadeDevice(name), token)
        with pytest.raises(CoordinatorError, match="FA-5046"):
            enter(MadeDevice("c"), token)
        assert sorted(row.name for row in registry.devices()) == ["a", "b"]

    def test_a_stolen_token_is_of_no_use_once_it_was_used(self, registry: Registry, enter: Enrol) -> None:
        token = make_token(registry, HOUR, 1, NOW)
        enter(MadeDevice("mine"), token)
        with pytest.raises(CoordinatorError, match="FA-5046"):
            enter(MadeDevice("theirs"), token)

    def test_a_token_expires(self, registry: Registry, enter: Enrol) -> None:
        token = make_token(registry, HOUR, 1, NOW)
        with pytest.raises(CoordinatorError, match="FA-5045"):
            enter(MadeDevice("late"), token, now=NOW + HOUR + timedelta(seconds=1))
        assert enter(MadeDevice("early"), token, now=NOW + HOUR).state == "active"

    def test_no_token_no_entry(self, registry: Registry, enter: Enrol) -> None:
        with pytest.raises(CoordinatorError, match="FA-5044"):
            enter(MadeDevice("a"), bytes(16))
        assert list(registry.devices()) == []

    def test_a_lost_answer_is_given_again(self, registry: Registry, enter: Enrol) -> None:
        device, token = MadeDevice("kitchen"), make_token(registry, HOUR, 1, NOW)
        first = enter(device, token)
        lines = evidence.head(registry)
        # The request is signed anew, and the token has long expired.
        assert enter(device, token, now=NOW + timedelta(days=3)) == first
        assert evidence.head(registry) == lines

    def test_one_device_cannot_use_up_a_token_for_many(self, registry: Registry, enter: Enrol) -> None:
        device, token = MadeDevice("kitchen"), make_token(registry, HOUR, 5, NOW)
        enter(device, token)
        with pytest.raises(CoordinatorError, match="FA-5046"):
            enter(MadeDevice("kitchen", device.identity), token)
        with registry.reading() as session:
            assert [row.uses for row in session.query(Token)] == [4]

    def test_a_device_that_was_away_too_long_enrols_again_and_stays_itself(
        self, registry: Registry, enter: Enrol
    ) -> None:
        device = MadeDevice("kitchen")
        first = enter(device)
        late = NOW + timedelta(days=100)
        with pytest.raises(CoordinatorError, match="FA-5052"):
            registry.active_device(first.device, late)
        again = enter(device, now=late)
        assert again.device == first.device
        assert again.certificate != first.certificate
        assert registry.active_device(first.device, late).name == "kitchen"

    def test_names_are_unique_among_those_who_take_part(self, registry: Registry, enter: Enrol) -> None:
        first = enter(MadeDevice("kitchen"))
        with pytest.raises(CoordinatorError, match="FA-5047"):
            enter(MadeDevice("kitchen"))
        revoke(registry, first.device, "broken", NOW)
        second = enter(MadeDevice("kitchen"))
        assert registry.device_named("kitchen").id == second.device

    def test_keys_are_not_shared(self, enter: Enrol) -> None:
        device = MadeDevice("kitchen")
        enter(device)
        with pytest.raises(CoordinatorError, match="FA-5049"):
            enter(MadeDevice("hall", node=device.node))

    def test_a_revoked_device_stays_out_with_any_token(self, registry: Registry, enter: Enrol) -> None:
        device, token = MadeDevice("kitchen"), make_token(registry, HOUR, 2, NOW)
        answer = enter(device, token)
        revoke(registry, answer.device, "stolen", NOW)
        for again in (token, None):
            with pytest.raises(CoordinatorError, match="FA-5048"):
                enter(device, again)
        with pytest.raises(CoordinatorError, match="FA-5049"):
            enter(MadeDevice("other", node=device.node))

    def test_one_token_and_many_devices_at_once(
        self, home: CoordinatorHome, registry: Registry, authority: DeviceAuthority
    ) -> None:
        token = make_token(registry, HOUR, 3)
        outcomes: list[str] = []

        def attempt(number: int) -> None:
            own = Registry(home.database)
            try:
                outcomes.append(enrol(own, authority, RULES, MadeDevice(f"d{number}").request(token)).state)
            except CoordinatorError as error:
                outcomes.append(error.code)
            own.close()

        threads = [threading.Thread(target=attempt, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes) == ["FA-5046"] * 5 + ["active"] * 3
        assert len(registry.devices()) == 3
        # The fleet, the token, three devices, and one line for the five that were refused.
        assert evidence.verify(registry, home.evidence_head).entries == 6


def p384() -> str:
    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


class TestProofs:
    @pytest.mark.parametrize(
        "name",
        [
            "",
            "a b",
            "a/b",
            "x" * 65,
            "a\nb",
            "a\x00b",
            "<b>",
            "a\u202eb",
            "a\u200db",
            "0123abcd",
            "-rf",
            ".a",
        ],
        ids=lambda name: repr(name)[:12],
    )
    def test_a_name_that_is_none(self, registry: Registry, enter: Enrol, name: str) -> None:
        token = make_token(registry, HOUR, 1, NOW)
        try:
            request = MadeDevice(name).request(token)
        except (ValueError, ProtocolError):
            return  # X.509 itself has no such names
        with pytest.raises(ProtocolError, match="FA-3030"):
            enter(_Sent(request), token)

    @pytest.mark.parametrize(
        "change",
        [
            lambda device: {"request": MadeDevice("kitchen").wish()["request"]},
            lambda device: {"node_proof": MadeDevice("kitchen").wish()["node_proof"]},
            lambda device: {"node_key": MadeDevice("kitchen").node_pem},
            lambda device: {"node_key": p384()},
            lambda device: {"node_key": "no key"},
            lambda device: {"node_proof": "00"},
            lambda device: {"request": device.wish()["request"].replace("A", "B", 1)},
            lambda device: {"request": "no request"},
            lambda device: {"node_key": device.wish()["request"]},
        ],
    )
    def test_who_does_not_hold_both_keys_is_refused(
        self, registry: Registry, enter: Enrol, change: Callable[[MadeDevice], dict[str, str]]
    ) -> None:
        device, token = MadeDevice("kitchen"), make_token(registry, HOUR, 1, NOW)
        request = device.request(token).model_copy(update=change(device))
        with pytest.raises(ProtocolError, match="FA-3030"):
            enter(_Sent(request), token)
        assert enter(device, token).state == "active"  # and the token was not used up by that

    def test_one_key_has_one_spelling(self, registry: Registry, enter: Enrol) -> None:
        device, token = MadeDevice("kitchen"), make_token(registry, HOUR, 1, NOW)
        spaced = device.request(token).model_copy(update={"node_key": "\n" + device.node_pem + "\n"})
        with pytest.raises(ProtocolError, match="FA-3030"):
            enter(_Sent(spaced), token)


class _Sent:
    """In place of a device: a request that was made elsewhere."""

    def __init__(self, request: EnrolmentRequest) -> None:
        self._request = request

    def request(self, token: bytes) -> EnrolmentRequest:
        return self._request


class TestApproval:
    RULES = DeviceRules(approval=True)

    def test_a_device_waits_until_an_operator_lets_it_in(
        self, registry: Registry, authority: DeviceAuthority, enter: Enrol
    ) -> None:
        device, token = MadeDevice("kitchen"), make_token(registry, HOUR, 1, NOW)
        answer = enter(device, token, self.RULES)
        assert (answer.state, answer.certificate) == ("pending", "")
        with pytest.raises(CoordinatorError, match="FA-5053"):
            registry.active_device(answer.device, NOW)
        with pytest.raises(CoordinatorError, match="FA-5053"):
            renew(registry, authority, self.RULES, device.renewal(answer.device, "0"), NOW)
        assert enter(device, token, self.RULES) == answer
        row = approve(registry, authority, self.RULES, answer.device, NOW + HOUR)
        assert utc(row.expires or NOW) == NOW + HOUR + timedelta(days=60)
        assert enter(device, token, self.RULES).certificate == row.certificate
        assert registry.active_device(answer.device, NOW + HOUR).state == "active"
        lines = kinds(registry)
        assert approve(registry, authority, self.RULES, answer.device, NOW).certificate == row.certificate
        assert kinds(registry) == lines == ["fleet-created", "token-made", "enrolled", "approved"]

    def test_a_pending_device_can_be_turned_away(
        self, registry: Registry, authority: DeviceAuthority, enter: Enrol
    ) -> None:
        device, token = MadeDevice("kitchen"), make_token(registry, HOUR, 1, NOW)
        answer = enter(device, token, self.RULES)
        revoke(registry, answer.device, "nobody knows it", NOW)
        with pytest.raises(CoordinatorError, match="FA-5048"):
            enter(device, token, self.RULES)
        with pytest.raises(CoordinatorError, match="FA-5048"):
            approve(registry, authority, self.RULES, answer.device, NOW)
        row = registry.device(answer.device)
        assert row is not None
        assert (row.state, row.reason, row.certificate) == ("revoked", "nobody knows it", "")

    def test_who_never_came_cannot_be_approved_or_revoked(
        self, registry: Registry, authority: DeviceAuthority
    ) -> None:
        with pytest.raises(CoordinatorError, match="FA-5050"):
            approve(registry, authority, RULES, "0" * 32)
        with pytest.raises(CoordinatorError, match="FA-5050"):
            revoke(registry, "0" * 32, "")


class TestRenewal:
    @pytest.fixture
    def device(self) -> MadeDevice:
        return MadeDevice("kitchen")

    @pytest.fixture
    def renewed(self, registry: Registry, authority: DeviceAuthority) -> Callable[..., Enrolled]:
        return lambda statement, now=NOW: renew(registry, authority, RULES, statement, now)

    def test_a_certificate_is_renewed_before_it_expires(
        self, registry: Registry, authority: DeviceAuthority, enter: Enrol, device: MadeDevice, renewed: Enrol
    ) -> None:
        first = enter(device)
        says = authority.read(first.certificate)
        later = says.renew_at
        statement = device.renewal(first.device, says.serial)
        second = renewed(statement, later)
        assert authority.read(second.certificate).ends == later + timedelta(days=60)
        # The answer was lost: the same certificate again, to the same bytes or to new ones.
        assert renewed(statement, later) == second
        assert renewed(device.renewal(first.device, says.serial), later) == second
        assert kinds(registry)[3:] == ["renewed"]

    def test_not_after_it_has_expired(
        self, authority: DeviceAuthority, enter: Enrol, device: MadeDevice, renewed: Enrol
    ) -> None:
        first = enter(device)
        says = authority.read(first.certificate)
        with pytest.raises(CoordinatorError, match="FA-5052"):
            renewed(device.renewal(first.device, says.serial), says.ends + timedelta(seconds=1))

    def test_rotation_gives_new_keys_to_the_same_device(
        self, registry: Registry, authority: DeviceAuthority, enter: Enrol, device: MadeDevice, renewed: Enrol
    ) -> None:
        first = enter(device)
        serial = authority.read(first.certificate).serial
        new = MadeDevice("kitchen")
        statement = new.renewal(first.device, serial, signer=device)
        second = renewed(statement)
        says = authority.read(second.certificate)
        assert (says.device, says.name, says.identity) == (first.device, "kitchen", new.raw)
        assert renewed(statement) == second
        row = registry.active_device(first.device, NOW)
        assert (row.identity, row.previous_identity) == (new.raw.hex(), device.raw.hex())
        assert row.node_key == new.node_pem
        # The old keys are good for nothing else any more, whichever certificate they name.
        for wanted in (device, MadeDevice("kitchen")):
            for named in (serial, says.serial):
                with pytest.raises(CoordinatorError, match="FA-5051"):
                    renewed(wanted.renewal(first.device, named, signer=device))
        with pytest.raises(CoordinatorError, match="FA-5049"):
            enter(device)
        assert kinds(registry).count("rotated") == 1

    def test_keys_that_were_given_up_do_not_come_back(
        self, authority: DeviceAuthority, enter: Enrol, device: MadeDevice, renewed: Enrol
    ) -> None:
        first = enter(device)
        new = MadeDevice("kitchen")
        second = renewed(new.renewal(first.device, authority.read(first.certificate).serial, signer=device))
        serial = authority.read(second.certificate).serial
        for wanted in (
            device,
            MadeDevice("kitchen", device.identity, new.node),
            MadeDevice("kitchen", new.identity, device.node),
        ):
            with pytest.raises(CoordinatorError, match="FA-5049"):
                renewed(wanted.renewal(first.device, serial, signer=new))

    def test_after_two_rotations_the_first_is_not_repeated(
        self, authority: DeviceAuthority, enter: Enrol, device: MadeDevice, renewed: Enrol
    ) -> None:
        answer, current = enter(device), device
        statements = []
        for _ in range(2):
            new = MadeDevice("kitchen")
            serial = authority.read(answer.certificate).serial
            statements.append(new.renewal(answer.device, serial, signer=current))
            answer, current = renewed(statements[-1]), new
        with pytest.raises(ProtocolError, match="FA-3017"):
            renewed(statements[0])
        assert renewed(statements[1]) == answer

    def test_nobody_renews_for_another(
        self, registry: Registry, authority: DeviceAuthority, enter: Enrol, device: MadeDevice, renewed: Enrol
    ) -> None:
        victim, thief = enter(device), MadeDevice("thief")
        mine = enter(thief)
        serial = authority.read(victim.certificate).serial
        with pytest.raises(ProtocolError, match="FA-3017"):
            renewed(thief.renewal(victim.device, serial))
        forged = bytearray(device.renewal(victim.device, serial))
        forged[40] ^= 1
        with pytest.raises(ProtocolError, match="FA-3018"):
            renewed(bytes(forged))
        with pytest.raises(CoordinatorError, match="FA-5049"):
            renewed(
                MadeDevice("thief", thief.identity, device.node).renewal(
                    mine.device, authority.read(mine.certificate).serial
                )
            )
        assert kinds(registry)[-2:] == ["enrolled", "refused"]

    def test_a_new_certificate_is_not_renewed_for_the_same_keys(
        self, registry: Registry, authority: DeviceAuthority, enter: Enrol, device: MadeDevice, renewed: Enrol
    ) -> None:
        first = enter(device)
        serial, head = authority.read(first.certificate).serial, evidence.head(registry)
        with pytest.raises(CoordinatorError, match="FA-5058"):
            renewed(device.renewal(first.device, serial), NOW + HOUR - timedelta(seconds=1))
        assert evidence.head(registry) == head
        assert renewed(device.renewal(first.device, serial), NOW + HOUR).device == first.device
        new = MadeDevice("kitchen")
        again = authority.read(registry.active_device(first.device, NOW).certificate).serial
        assert renewed(new.renewal(first.device, again, signer=device), NOW + HOUR).device == first.device

    def test_a_device_cannot_rotate_all_day(
        self, registry: Registry, authority: DeviceAuthority, enter: Enrol, device: MadeDevice, renewed: Enrol
    ) -> None:
        answer, current = enter(device), device

        def rotate_once(now: datetime) -> None:
            nonlocal answer, current
            new = MadeDevice("kitchen")
            serial = authority.read(answer.certificate).serial
            answer = renewed(new.renewal(answer.device, serial, signer=current), now)
            current = new

        for _ in range(NEW_KEYS_A_DAY // 2 - 1):  # its first two keys are of today as well
            rotate_once(NOW + HOUR)
        head = evidence.head(registry)
        with pytest.raises(CoordinatorError, match="FA-5059"):
            rotate_once(NOW + HOUR)
        assert evidence.head(registry) == head
        row = registry.active_device(answer.device, NOW)
        assert row.identity == current.raw.hex()
        rotate_once(NOW + timedelta(days=1, hours=2))

    def test_what_was_answered_is_answered_again_while_somebody_writes(
        self, registry: Registry, authority: DeviceAuthority, enter: Enrol, device: MadeDevice, renewed: Enrol
    ) -> None:
        token = make_token(registry, HOUR, 1, NOW)
        first = enter(device, token)
        with closing(sqlite3.connect(registry.path)) as writer:
            writer.execute("BEGIN IMMEDIATE")
            assert enter(device, token) == first
        statement = device.renewal(first.device, authority.read(first.certificate).serial)
        second = renewed(statement, NOW + HOUR)
        with closing(sqlite3.connect(registry.path)) as writer:
            writer.execute("BEGIN IMMEDIATE")
            assert renewed(statement, NOW + HOUR) == second

    def test_a_stranger_is_not_told_of_a_revoked_device(
        self, registry: Registry, enter: Enrol, device: MadeDevice, renewed: Enrol
    ) -> None:
        answer = enter(device)
        revoke(registry, answer.device, "", NOW)
        head = evidence.head(registry)
        with pytest.raises(ProtocolError, match="FA-3017") as raised:
            renewed(MadeDevice("thief").renewal(answer.device, "1"))
        assert "kitchen" not in str(raised.value)
        assert evidence.head(registry) == head

    @pytest.mark.parametrize("revoked", [True, False])
    def test_only_devices_that_take_part_renew(
        self,
        registry: Registry,
        authority: DeviceAuthority,
        enter: Enrol,
        device: MadeDevice,
        renewed: Enrol,
        revoked: bool,
    ) -> None:
        answer = enter(device)
        serial = authority.read(answer.certificate).serial
        if revoked:
            revoke(registry, answer.device, "", NOW)
        who, code = (answer.device, "FA-5048") if revoked else ("f" * 32, "FA-5050")
        with pytest.raises(CoordinatorError, match=code):
            renewed(device.renewal(who, serial))

    @pytest.mark.parametrize(
        "data", [b"", b"FAS1", bytes(76), bytes(76) + b"{}", bytes(76) + b"{" * 20_000, bytes(1 << 20)]
    )
    def test_rubbish_is_refused(self, renewed: Enrol, data: bytes) -> None:
        with pytest.raises(ProtocolError, match="FA-3030"):
            renewed(data)

    def test_every_changed_byte_of_a_renewal_is_refused(
        self, registry: Registry, authority: DeviceAuthority, enter: Enrol, device: MadeDevice, renewed: Enrol
    ) -> None:
        answer = enter(device)
        statement = device.renewal(answer.device, authority.read(answer.certificate).serial)
        head = evidence.head(registry)
        for index in range(len(statement)):
            forged = bytearray(statement)
            forged[index] ^= 0x01
            with pytest.raises(FedAudioError):
                renewed(bytes(forged))
        assert evidence.head(registry) == head

    def test_a_rotated_ca_honours_what_the_old_one_issued(
        self,
        home: CoordinatorHome,
        registry: Registry,
        authority: DeviceAuthority,
        enter: Enrol,
        device: MadeDevice,
    ) -> None:
        first = enter(device)
        rotate(home, registry, RULES, None, ["device-ca"])
        new = DeviceAuthority.load(home, None)
        assert registry.active_device(first.device, NOW).certificate == first.certificate
        serial = new.read(first.certificate).serial
        second = renew(registry, new, RULES, device.renewal(first.device, serial), NOW + HOUR)
        with pytest.raises(ProtocolError, match="FA-3029"):
            authority.read(second.certificate)
        assert new.read(second.certificate).device == first.device


class TestRefusalsAreEvidence:
    """What tells of stolen tokens or keys is written down, and nobody can fill the disk with it."""

    @staticmethod
    def refused(registry: Registry) -> list[dict[str, object]]:
        lines = map(json.loads, evidence.lines(registry))
        return [
            {key: line[key] for key in ("code", "device", "token") if key in line}
            for line in lines
            if line["kind"] == "refused"
        ]

    def test_a_token_that_was_used_up(
        self, registry: Registry, enter: Enrol, caplog: pytest.LogCaptureFixture
    ) -> None:
        token = make_token(registry, HOUR, 1, NOW)
        enter(MadeDevice("mine"), token)
        for _ in range(5):
            with pytest.raises(CoordinatorError, match="FA-5046"):
                enter(MadeDevice("theirs"), token)
        line = {"code": "FA-5046", "device": None, "token": token_name(token_digest(token))}
        assert self.refused(registry) == [line]
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "FA-5046" in caplog.text
        with pytest.raises(CoordinatorError, match="FA-5046"):
            enter(MadeDevice("theirs"), token, now=NOW + HOUR)
        assert self.refused(registry) == [line, line]

    def test_a_token_that_nobody_made_leaves_no_line(self, registry: Registry, enter: Enrol) -> None:
        for number in range(3):
            with pytest.raises(CoordinatorError, match="FA-5044"):
                enter(MadeDevice("a"), bytes(15) + bytes([number]))
        assert self.refused(registry) == []

    def test_a_device_that_is_out_and_one_that_is_there_twice(
        self, registry: Registry, authority: DeviceAuthority, enter: Enrol
    ) -> None:
        device, new = MadeDevice("kitchen"), MadeDevice("kitchen")
        first = enter(device)
        serial = authority.read(first.certificate).serial
        renew(registry, authority, RULES, new.renewal(first.device, serial, signer=device), NOW)
        # Whoever has the keys from before the rotation comes back with them.
        with pytest.raises(CoordinatorError, match="FA-5051"):
            renew(registry, authority, RULES, device.renewal(first.device, serial), NOW)
        with pytest.raises(CoordinatorError, match="FA-5049"):
            enter(device)
        revoke(registry, first.device, "stolen", NOW)
        for _ in range(2):
            with pytest.raises(CoordinatorError, match="FA-5048"):
                renew(registry, authority, RULES, new.renewal(first.device, serial), NOW)
        found = self.refused(registry)
        assert [line["code"] for line in found] == ["FA-5051", "FA-5049", "FA-5048"]
        assert [line["device"] for line in found] == [first.device, None, first.device]


class TestTokens:
    def test_one_is_listed_until_it_is_withdrawn(self, registry: Registry, enter: Enrol) -> None:
        kept, gone = (make_token(registry, HOUR, 2, NOW) for _ in range(2))
        enter(MadeDevice("early"), gone)
        make_token(registry, timedelta(seconds=1), 1, NOW - HOUR)
        name = token_digest(gone)
        assert [(row.digest, row.uses) for row in open_tokens(registry, NOW)] == sorted(
            [(token_digest(kept), 2), (name, 1)]
        )
        assert withdraw_token(registry, name[:8]).digest == name
        assert [row.digest for row in open_tokens(registry, NOW)] == [token_digest(kept)]
        with pytest.raises(CoordinatorError, match="FA-5046"):
            enter(MadeDevice("late"), gone)
        assert [row.name for row in registry.devices()] == ["early"]
        assert kinds(registry)[-2:] == ["token-withdrawn", "refused"]

    @pytest.mark.parametrize("name", ["", "abc", "zzzz", "%", "____", "\ud800"])
    def test_what_is_no_token(self, registry: Registry, name: str) -> None:
        make_token(registry, HOUR, 1, NOW)
        with pytest.raises(CoordinatorError, match="FA-5054"):
            withdraw_token(registry, name)


def test_secrets_are_nowhere(
    home: CoordinatorHome,
    registry: Registry,
    authority: DeviceAuthority,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    device, token = MadeDevice("kitchen"), make_token(registry, HOUR, 1, NOW)
    request = device.request(token)
    said = []
    for attempt in (request, MadeDevice("b").request(token), MadeDevice("b").request(bytes(15) + b"\x01")):
        try:
            said.append(repr(enrol(registry, authority, RULES, attempt, NOW)))
        except FedAudioError as error:
            said.append(repr(error) + str(error) + error.remedy)
    said += [repr(request), repr(authority), caplog.text, *evidence.lines(registry)]
    stored = b"".join(path.read_bytes() for path in home.root.iterdir() if path.is_file())
    secrets = [token]
    for key in (device.identity, authority.key):
        secrets.append(key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption()))
    for secret in secrets:
        for form in (secret, secret.hex().encode()):
            assert form not in stored
            assert form not in "".join(said).encode()
    assert len(said) > 3
