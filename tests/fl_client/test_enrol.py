"""Becoming a device: with the right string, of the right coordinator, whatever breaks on the way."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from common.errors import ConfigError, DeviceError, FedAudioError, ProtocolError
from common.protocol.enrolment import ENROL_PATH, TRUST_PATH, EnrolmentRequest
from common.protocol.invitation import Invitation
from common.security.canonical import read_canonical
from common.security.keys import KeyFolder, read_protection
from common.settings import load_settings
from fl_client import enrol as enrol_module
from fl_client.connection import make_client
from fl_client.enrol import complete, enrol
from fl_client.home import DeviceHome
from fl_client.identity import Identity
from fl_client.policy import Policy, load_policy
from fl_client.renewal import renew
from fl_client.settings import DeviceSettings
from tests.fl_client.made_coordinator import Answer, Desk, serving
from tests.fl_client.made_identity import Authority, make_home
from tests.fl_client.power_cut import PowerCut, crash_at
from tests.processes import run_cli


@pytest.fixture
def home(tmp_path: Path) -> DeviceHome:
    return DeviceHome(tmp_path / "kitchen")


def requests_in(desk: Desk) -> list[EnrolmentRequest]:
    read = [read_canonical(EnrolmentRequest, body) for path, body in desk.bodies if path == ENROL_PATH]
    return [request for request in read if isinstance(request, EnrolmentRequest)]


def test_a_device_has_an_identity_that_only_it_knows(desk: Desk, home: DeviceHome) -> None:
    done = enrol(home, str(desk.invite()), name="kitchen", source="mic")
    assert done.state == "active"
    identity = Identity.load(home, None)
    assert (identity.device, identity.name, identity.coordinator) == (
        done.device,
        "kitchen",
        desk.authority.pin,
    )
    settings = load_settings(DeviceSettings, home.config)
    assert (settings.name, settings.server, settings.source) == ("kitchen", desk.address, "mic")
    assert load_policy(home.policy) == Policy()
    assert not home.application.exists()
    private = identity.signing_key.private_bytes_raw()
    for _, body in desk.bodies:
        assert private not in body
        assert b"PRIVATE" not in body


def test_everything_at_home_is_its_owners_alone(desk: Desk, home: DeviceHome) -> None:
    enrol(home, desk.invite(), name="kitchen")
    for path in (home.root, *home.root.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path


def test_keys_are_encrypted_under_a_passphrase(desk: Desk, home: DeviceHome) -> None:
    enrol(home, desk.invite(), name="kitchen", passphrase=b"open sesame")
    assert read_protection(home.identity).by == "passphrase"
    for key in home.identity.glob("*.key"):
        assert b"ENCRYPTED PRIVATE KEY" in key.read_bytes()
    with pytest.raises(ConfigError, match="FA-6006"):
        Identity.load(home, None)


class TestWrongStrings:
    def refused(self, home: DeviceHome, invitation: Invitation | str) -> str:
        with pytest.raises(FedAudioError) as caught:
            enrol(home, invitation, name="kitchen")
        assert not home.config.exists()
        assert not home.certificate.exists()
        return str(caught.value)

    def test_mistyped(self, desk: Desk, home: DeviceHome) -> None:
        text = str(desk.invite())
        for wrong in (text[:-1], text + "A", text[:20] + ("A" if text[20] != "A" else "B") + text[21:], ""):
            message = self.refused(home, wrong)
            assert message.startswith("FA-6009")
            assert wrong == "" or wrong not in message
        assert desk.bodies == []

    def test_stolen_and_used_before(self, desk: Desk, home: DeviceHome, tmp_path: Path) -> None:
        invitation = desk.invite()
        enrol(DeviceHome(tmp_path / "thief"), invitation, name="thief")
        assert "FA-5046" in self.refused(home, invitation)

    def test_expired(self, desk: Desk, home: DeviceHome) -> None:
        assert "FA-5045" in self.refused(home, desk.invite(ttl=timedelta(seconds=-1)))

    def test_never_issued(self, desk: Desk, home: DeviceHome) -> None:
        assert "FA-5044" in self.refused(home, Invitation.new(desk.address, desk.authority.pin))

    def test_no_error_and_no_log_repeats_the_token(
        self, desk: Desk, home: DeviceHome, caplog: pytest.LogCaptureFixture
    ) -> None:
        invitation = desk.invite(ttl=timedelta(seconds=-1))
        with caplog.at_level(logging.DEBUG):
            message = self.refused(home, invitation)
        for text in (message, caplog.text, repr(invitation), repr(requests_in(desk))):
            assert invitation.token.hex() not in text
            assert str(invitation) not in text

    def test_an_impossible_name_is_refused_before_anything_is_made(
        self, desk: Desk, home: DeviceHome
    ) -> None:
        for name in ("", "two words", "a/b", "a\n", "x" * 65):
            with pytest.raises(ConfigError, match="FA-6003"):
                enrol(home, desk.invite(), name=name)
        assert not home.root.exists()
        assert desk.bodies == []


class TestSomebodyElse:
    """Who answers is not the coordinator that the string is of."""

    def test_another_root_is_refused_before_the_token_is_sent(self, tmp_path: Path, home: DeviceHome) -> None:
        other = Desk(tmp_path / "other")
        with other.open() as address:
            with pytest.raises(ProtocolError, match="FA-3026"):
                enrol(home, Invitation.new(address, Authority.make().pin), name="kitchen")
            assert [path for path, _ in other.bodies] == [TRUST_PATH]
        assert not home.root.exists()

    def test_a_stolen_trust_statement_does_not_help(self, tmp_path: Path, home: DeviceHome) -> None:
        honest, seen = Authority.make(), list[str]()
        # It sends on what the honest coordinator says, but has no certificate under the honest root.
        middle = Authority.make().server_context(tmp_path / "middle")

        def respond(path: str, body: bytes) -> Answer:
            seen.append(path)
            return honest.trust_statement() if path == TRUST_PATH else b""

        with serving(respond, middle) as address, pytest.raises(DeviceError, match="FA-4016"):
            enrol(home, Invitation.new(address, honest.pin), name="kitchen")
        assert seen == [TRUST_PATH]
        assert not home.config.exists()

    def test_a_certificate_for_another_name_is_refused(self, tmp_path: Path, home: DeviceHome) -> None:
        honest = Authority.make()
        context = honest.server_context(tmp_path / "tls", hosts=["elsewhere.example"])
        with (
            serving(lambda path, body: honest.trust_statement(), context) as address,
            pytest.raises(DeviceError, match="FA-4016"),
        ):
            enrol(home, Invitation.new(address, honest.pin), name="kitchen")

    @pytest.mark.parametrize(
        "answer",
        [
            b"",
            b"{}",
            b"\xff" * 200,
            b"[" * 60_000,
            bytes(70_000),
            (500, b"oops"),
            (302, b""),
            (204, b""),
            None,
        ],
    )
    @pytest.mark.parametrize("path", [TRUST_PATH, ENROL_PATH])
    def test_garbage_is_explained(self, tmp_path: Path, home: DeviceHome, path: str, answer: Answer) -> None:
        desk = Desk(tmp_path)
        with serving(
            lambda asked, body: answer if asked == path else desk.respond(asked, body), desk.context
        ) as desk.address:
            with pytest.raises(FedAudioError) as caught:
                enrol(home, desk.invite(), name="kitchen")
            assert caught.value.code in {"FA-3016", "FA-3025", "FA-4012", "FA-4013"}
            assert not home.config.exists()

    def test_a_certificate_for_other_keys_is_thrown_away(self, tmp_path: Path, home: DeviceHome) -> None:
        desk = Desk(tmp_path)
        with desk.open():
            enrol(DeviceHome(tmp_path / "hall"), desk.invite(), name="hall")
            others = desk.respond(*desk.bodies[-2])

        def respond(path: str, body: bytes) -> Answer:
            return others if path == ENROL_PATH else desk.respond(path, body)

        with serving(respond, desk.context) as desk.address, pytest.raises(DeviceError, match="FA-4018"):
            enrol(home, desk.invite(), name="kitchen")
        assert not home.certificate.exists()

    def test_nobody_answers(self, home: DeviceHome) -> None:
        with pytest.raises(DeviceError, match="FA-4012"):
            enrol(home, Invitation.new("127.0.0.1:1", "0" * 64), name="kitchen")


@pytest.mark.parametrize("years", [-10, 10])
def test_a_coordinator_of_another_decade_is_a_matter_of_clocks(
    tmp_path: Path, home: DeviceHome, years: int
) -> None:
    there = datetime.now(UTC) + timedelta(days=365 * years)
    authority = Authority.make()
    changes = {"created": there, "expires": there + timedelta(days=365)}
    with (
        serving(
            lambda path, body: authority.trust_statement(**changes), authority.server_context(tmp_path)
        ) as address,
        pytest.raises(ProtocolError, match=r"FA-3028.*clock"),
    ):
        enrol(home, Invitation.new(address, authority.pin), name="kitchen")


class TestInterrupted:
    def test_a_lost_answer_is_asked_for_again_with_the_same_string(
        self, desk: Desk, home: DeviceHome
    ) -> None:
        invitation, desk.lost_answers = desk.invite(), 1
        with pytest.raises(DeviceError, match="FA-4012"):
            enrol(home, invitation, name="kitchen")
        assert not home.config.exists()
        assert enrol(home, invitation, name="kitchen").state == "active"
        first, second = requests_in(desk)
        assert (first.request, first.node_key) == (second.request, second.node_key)
        assert Identity.load(home, None).name == "kitchen"

    @pytest.mark.parametrize("step", range(1, 13))
    def test_a_crash_at_any_write_costs_nothing(
        self, desk: Desk, home: DeviceHome, step: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        invitation = desk.invite()
        crash_at(monkeypatch, step, home)
        try:
            enrol(home, invitation, name="kitchen")
        except PowerCut:
            monkeypatch.undo()
            assert enrol(home, invitation, name="kitchen").state == "active"
        else:
            assert step > 9, "there are more writes than that"
        assert Identity.load(home, None).name == "kitchen"
        assert {request.request for request in requests_in(desk)} == {requests_in(desk)[0].request}

    def test_an_enrolled_device_is_left_alone(self, desk: Desk, home: DeviceHome) -> None:
        enrol(home, desk.invite(), name="kitchen")
        before = {path: path.read_bytes() for path in home.root.rglob("*") if path.is_file()}
        with pytest.raises(DeviceError, match="FA-4004"):
            enrol(home, desk.invite(), name="other")
        assert {path: path.read_bytes() for path in home.root.rglob("*") if path.is_file()} == before

    def test_a_folder_belongs_to_one_coordinator(self, desk: Desk, home: DeviceHome, tmp_path: Path) -> None:
        enrol(home, desk.invite(), name="kitchen")
        with pytest.raises(DeviceError, match="FA-4017"):
            enrol(home, Invitation.new(desk.address, "0" * 64), name="kitchen")

    def test_an_expired_device_keeps_its_identity(self, desk: Desk, tmp_path: Path) -> None:
        long_ago = datetime.now(UTC) - timedelta(days=100)
        made = make_home(tmp_path / "old", authority=desk.authority, server=desk.address, now=long_ago)
        made.home.config.write_text(made.home.config.read_text() + 'source = "mic"\n')
        before = made.identity
        done = enrol(made.home, desk.invite(), name="kitchen")
        after = made.identity
        assert done.device == before.device == after.device
        assert after.certificate.identity == before.certificate.identity
        assert after.certificate.ends > datetime.now(UTC)
        assert load_settings(DeviceSettings, made.home.config).source == "mic"


class TestPassphrase:
    def test_plain_keys_of_a_failed_enrolment_are_replaced(self, desk: Desk, home: DeviceHome) -> None:
        with pytest.raises(DeviceError, match="FA-5045"):
            enrol(home, desk.invite(ttl=timedelta(seconds=-1)), name="kitchen")
        plain = {key.name: key.read_bytes() for key in home.identity.glob("*.key")}
        assert len(plain) == 2
        enrol(home, desk.invite(), name="kitchen", passphrase=b"open sesame")
        assert read_protection(home.identity).by == "passphrase"
        for key in home.identity.glob("*.key"):
            assert b"ENCRYPTED PRIVATE KEY" in key.read_bytes()
        first, second = requests_in(desk)
        assert first.request != second.request

    def test_plain_keys_that_the_coordinator_knows_stay_and_it_is_said(
        self, tmp_path: Path, home: DeviceHome
    ) -> None:
        desk = Desk(tmp_path, approval=True)
        with desk.open():
            invitation = desk.invite()
            done = enrol(home, invitation, name="kitchen")
            with pytest.raises(DeviceError, match="FA-4026"):
                enrol(home, invitation, name="kitchen", passphrase=b"open sesame")
            desk.approve(done.device)
            assert enrol(home, invitation, name="kitchen").state == "active"

    def test_of_an_expired_device_too(self, desk: Desk, tmp_path: Path) -> None:
        long_ago = datetime.now(UTC) - timedelta(days=100)
        made = make_home(tmp_path / "old", authority=desk.authority, server=desk.address, now=long_ago)
        with pytest.raises(DeviceError, match="FA-4026"):
            enrol(made.home, desk.invite(), name="kitchen", passphrase=b"open sesame")
        assert made.identity.name == "kitchen"

    def test_another_one_after_a_kill_between_two_keys_is_noticed(
        self, desk: Desk, home: DeviceHome, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        invitation = desk.invite()

        def cut(self: KeyFolder, name: str, key: object) -> None:
            if name == "identity":
                raise PowerCut
            save(self, name, key)  # type: ignore[arg-type]

        save = KeyFolder.save
        monkeypatch.setattr(KeyFolder, "save", cut)
        with pytest.raises(PowerCut):
            enrol(home, invitation, name="kitchen", passphrase=b"open sesame")
        monkeypatch.undo()
        with pytest.raises(ConfigError, match="FA-6006"):
            enrol(home, invitation, name="kitchen", passphrase=b"open barley")
        assert not (home.identity / "identity.key").exists()
        assert enrol(home, invitation, name="kitchen", passphrase=b"open sesame").state == "active"

    def test_who_enrols_twice_at_once_has_one_set_of_keys(self, desk: Desk, home: DeviceHome) -> None:
        invitation = desk.invite()
        both = [
            threading.Thread(target=enrol, args=(home, invitation), kwargs={"name": "kitchen"})
            for _ in range(2)
        ]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join(timeout=60)
        assert len({request.node_key for request in requests_in(desk)}) == 1
        assert Identity.load(home, None).name == "kitchen"


def test_a_wrong_clock_is_named_before_anything_is_made(desk: Desk, home: DeviceHome) -> None:
    desk.clock = timedelta(minutes=20)
    with pytest.raises(DeviceError, match="FA-4015"):
        enrol(home, desk.invite(), name="kitchen")
    assert not home.root.exists()
    assert requests_in(desk) == []


def test_a_rotation_whose_answer_was_lost_before_the_certificate_expired(
    desk: Desk, home: DeviceHome
) -> None:
    done = enrol(home, desk.invite(), name="kitchen")
    before = Identity.load(home, None)
    with make_client(load_settings(DeviceSettings, home.config), before.trust, insecure=False) as client:
        desk.lost_answers = 1
        with pytest.raises(DeviceError, match="FA-4012"):
            renew(home, None, client, rotate=True)
    # The certificate it still has is of long ago; the coordinator knows the next keys alone.
    home.certificate.write_bytes(
        desk.authority.certify(
            "kitchen",
            before.signing_key,
            before.node_key,
            device=before.device,
            now=datetime.now(UTC) - timedelta(days=100),
        )
    )
    assert enrol(home, desk.invite(), name="kitchen").device == done.device
    after = Identity.load(home, None)
    assert after.device == before.device
    assert after.certificate.identity != before.certificate.identity
    assert not list(home.identity.glob("*-next.key"))


class TestApproval:
    def test_pending_until_an_operator_says_yes(self, tmp_path: Path, home: DeviceHome) -> None:
        desk = Desk(tmp_path, approval=True)
        with desk.open():
            done = enrol(home, desk.invite(), name="kitchen")
            assert done.state == "pending"
            with pytest.raises(DeviceError, match="FA-4010"):
                Identity.load(home, None)
            assert complete(home, None).state == "pending"
            desk.approve(done.device)
            assert complete(home, None).state == "active"
            assert Identity.load(home, None).device == done.device
            assert not home.application.exists()

    def test_who_waits_is_told(
        self, tmp_path: Path, home: DeviceHome, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(enrol_module, "POLL_SECONDS", 0.05)
        desk = Desk(tmp_path, approval=True)
        with desk.open():
            invitation = desk.invite()

            def operator() -> None:
                while not requests_in(desk):
                    pass
                while not (rows := desk.registry.devices()):
                    pass
                desk.approve(rows[0].id)

            approving = threading.Thread(target=operator)
            approving.start()
            assert enrol(home, invitation, name="kitchen", wait_seconds=60).state == "active"
            approving.join()

    def test_who_waits_does_so_also_while_nobody_answers(
        self, tmp_path: Path, home: DeviceHome, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(enrol_module, "POLL_SECONDS", 0.05)
        desk = Desk(tmp_path)
        desk.lost_answers = 3
        with desk.open():
            assert enrol(home, desk.invite(), name="kitchen", wait_seconds=60).state == "active"
        assert len(requests_in(desk)) == 4

    def test_a_refused_application_is_said_so(self, tmp_path: Path, home: DeviceHome) -> None:
        desk = Desk(tmp_path, approval=True)
        with desk.open():
            done = enrol(home, desk.invite(), name="kitchen")
            desk.revoke(done.device)
            with pytest.raises(DeviceError, match=r"FA-4014.*FA-5048"):
                complete(home, None)


class TestInsecure:
    def test_on_this_machine_without_tls(self, tmp_path: Path, home: DeviceHome) -> None:
        desk = Desk(tmp_path)
        with desk.open(tls=False):
            assert enrol(home, desk.invite(), name="kitchen", insecure=True).state == "active"

    @pytest.mark.parametrize("address", ["10.0.0.1:1", "localhost:1", "example.com:1", "[2001:db8::1]:1"])
    def test_nowhere_else(self, home: DeviceHome, address: str) -> None:
        with pytest.raises(DeviceError, match="FA-4009"):
            enrol(home, Invitation.new(address, "0" * 64), name="kitchen", insecure=True)
        assert not home.root.exists()


class TestCommand:
    def test_the_string_may_come_from_standard_input(self, desk: Desk, home: DeviceHome) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "fedaudio", "client", "enroll", "-", "--home", str(home.root), "--json"],
            input=f"{desk.invite()}\n",
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        said = json.loads(done.stdout)
        assert (said["state"], said["protection"]) == ("active", "file-mode")
        assert said["device"] == Identity.load(home, None).device

    def test_the_protection_of_the_keys_is_said_plainly(self, desk: Desk, home: DeviceHome) -> None:
        done = run_cli("client", "enroll", str(desk.invite()), "--home", str(home.root), "--name", "kitchen")
        assert "file mode 0600 alone" in done.stdout

    def test_the_passphrase_comes_from_a_file(self, desk: Desk, home: DeviceHome, tmp_path: Path) -> None:
        (tmp_path / "passphrase").write_text("open sesame\n")
        arguments = ("--home", str(home.root), "--passphrase-file", str(tmp_path / "passphrase"))
        done = run_cli("client", "enroll", str(desk.invite()), *arguments)
        assert "encrypted under a passphrase" in done.stdout
        wrong = run_cli("client", "keys", "rotate", "--home", str(home.root))
        assert wrong.returncode == 2
        assert "FA-6006" in wrong.stderr
        right = run_cli("client", "keys", "rotate", *arguments, "--json")
        assert json.loads(right.stdout)["protection"] == "passphrase"
