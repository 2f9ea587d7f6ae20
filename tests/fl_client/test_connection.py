"""The way to the coordinator: TLS 1.3 under its root or not at all, and clocks that agree."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from common.errors import DeviceError
from common.protocol.enrolment import Refused
from common.security.canonical import canonical
from fl_client.connection import (
    Clock,
    RefusedError,
    client_to,
    exchange,
    learn_time,
    make_client,
    require_loopback,
)
from fl_client.device import Device
from fl_client.settings import DeviceSettings
from tests.fl_client.made_coordinator import Answer, Desk, serving
from tests.fl_client.made_identity import Authority, Made, make_home


@pytest.fixture
def known(desk: Desk, tmp_path: Path) -> Made:
    """A device of the desk's coordinator."""
    return make_home(tmp_path / "known", authority=desk.authority, server=desk.address)


class TestTls:
    def ask(self, made: Made, context: ssl.SSLContext) -> bytes:
        with (
            serving(lambda path, body: b"yes", context) as address,
            client_to(address, made.trust, insecure=False) as client,
        ):
            return exchange(client, "GET", "/health")

    def test_the_coordinator_is_believed(self, made: Made, tmp_path: Path) -> None:
        assert self.ask(made, made.authority.server_context(tmp_path)) == b"yes"

    def test_a_man_in_the_middle_is_not(self, made: Made, tmp_path: Path) -> None:
        with pytest.raises(DeviceError, match="FA-4016"):
            self.ask(made, Authority.make().server_context(tmp_path))

    def test_nor_is_the_coordinator_under_another_name(self, made: Made, tmp_path: Path) -> None:
        with pytest.raises(DeviceError, match="FA-4016"):
            self.ask(made, made.authority.server_context(tmp_path, hosts=["10.0.0.1"]))

    def test_nor_is_a_device_with_its_certificate(self, made: Made, tmp_path: Path) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        keys = tmp_path / "chain.pem"
        keys.write_bytes(made.home.certificate.read_bytes())
        context.load_cert_chain(keys, made.home.identity / "identity.key")
        with pytest.raises(DeviceError, match="FA-4016"):
            self.ask(made, context)

    def test_nothing_older_than_tls_1_3(self, made: Made, tmp_path: Path) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*made.authority.tls_files(tmp_path))
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(DeviceError, match="FA-4012"):
            self.ask(made, context)

    @pytest.mark.parametrize("years", [-10, 10])
    def test_a_certificate_of_another_decade_is_a_matter_of_clocks(
        self, made: Made, tmp_path: Path, years: int
    ) -> None:
        there = datetime.now(UTC) + timedelta(days=365 * years)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*made.authority.tls_files(tmp_path, now=there))
        with pytest.raises(DeviceError, match=r"FA-4015.*clock"):
            self.ask(made, context)


class TestAnswers:
    @pytest.mark.parametrize(
        ("answer", "code"),
        [
            ((403, b""), "FA-4013"),
            ((500, b"\xff" * 100), "FA-4013"),
            ((302, b""), "FA-4013"),
            (bytes(70_000), "FA-4013"),
            (None, "FA-4012"),
        ],
    )
    def test_what_is_not_an_answer_is_said_so(
        self, made: Made, tmp_path: Path, answer: Answer, code: str
    ) -> None:
        with (
            serving(lambda path, body: answer, made.authority.server_context(tmp_path)) as address,
            client_to(address, made.trust, insecure=False) as client,
            pytest.raises(DeviceError, match=code),
        ):
            exchange(client, "GET", "/health")

    def test_a_refusal_is_passed_on_in_its_own_words(self, made: Made, tmp_path: Path) -> None:
        body = canonical(Refused(code="FA-5048", happened="It was revoked.", remedy="Ask."))
        with (
            serving(lambda path, _: (403, body), made.authority.server_context(tmp_path)) as address,
            client_to(address, made.trust, insecure=False) as client,
            pytest.raises(RefusedError, match=r"FA-4014.*FA-5048.*It was revoked"),
        ):
            exchange(client, "GET", "/health")


class TestClock:
    @pytest.mark.parametrize("minutes", [-14, -10, 0, 10, 14])
    def test_minutes_are_learnt(self, desk: Desk, known: Made, minutes: int) -> None:
        desk.clock, device = timedelta(minutes=minutes), Device(known.home)
        access = device.access()
        off = access.clock.now() - datetime.now(UTC)
        assert abs(off - desk.clock) < timedelta(seconds=30)

    @pytest.mark.parametrize("off", [timedelta(minutes=16), timedelta(days=3650)])
    @pytest.mark.parametrize("sign", [-1, 1])
    def test_more_is_refused_and_the_clock_is_named(
        self, desk: Desk, known: Made, off: timedelta, sign: int
    ) -> None:
        desk.clock = sign * off
        with pytest.raises(DeviceError, match=r"FA-4015.*clock"):
            Device(known.home).access()

    @pytest.mark.parametrize(
        "body", [b"", b"{}", b'{"time":1e400}', b'{"time":-1}', b'{"time":"x"}', b"[" * 9000]
    )
    def test_what_is_no_time_is_not_learnt(self, made: Made, tmp_path: Path, body: bytes) -> None:
        clock = Clock()
        with (
            serving(lambda path, _: body, made.authority.server_context(tmp_path)) as address,
            client_to(address, made.trust, insecure=False) as client,
            pytest.raises(DeviceError, match="FA-4013"),
        ):
            learn_time(client, clock)
        assert abs(clock.now() - datetime.now(UTC)) < timedelta(seconds=1)


class TestInsecure:
    @pytest.mark.parametrize("server", ["127.0.0.1:1", "[::1]:1"])
    def test_on_this_machine(self, server: str) -> None:
        require_loopback(server)

    @pytest.mark.parametrize(
        "server",
        [
            "127.8.8.8:1",
            "[::1%lo]:1",
            "localhost:1",
            "0.0.0.0:1",
            "[::]:1",
            "192.168.0.1:1",
            "127.0.0.1.example:1",
            ":1",
            "",
        ],
    )
    def test_nowhere_else(self, server: str) -> None:
        with pytest.raises(DeviceError, match="FA-4009"):
            require_loopback(server)

    def test_no_client_is_made_for_elsewhere(self) -> None:
        settings = DeviceSettings(name="a", server="10.0.0.1:1", coordinator="0" * 64)
        with pytest.raises(DeviceError, match="FA-4009"):
            make_client(settings, None, insecure=True)

    def test_the_node_is_a_fresh_one(self, desk: Desk, known: Made) -> None:
        access = Device(known.home, insecure=True).access()
        assert access.context is None
        assert isinstance(access.key, ec.EllipticCurvePrivateKey)
        assert access.key.private_numbers() != known.identity.node_key.private_numbers()


def test_a_rotation_by_another_process_is_taken_over(desk: Desk, known: Made) -> None:
    from fl_client.enrol import enrol
    from fl_client.home import DeviceHome
    from fl_client.renewal import renew

    home = DeviceHome(known.home.root.parent / "hall")
    enrol(home, desk.invite(), name="hall")
    device = Device(home)
    before = device.access()
    device.reload()
    assert not device.changed.is_set()
    renew(home, None, device.client, rotate=True)
    device.reload()
    assert device.changed.is_set()
    after = device.access()
    assert after.key.private_numbers() != before.key.private_numbers()
    assert device.identity().device == device.identity().device
