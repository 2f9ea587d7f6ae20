"""Who a device is, from what is on its disk; and what it does when that does not fit together."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.errors import ConfigError, DeviceError, ProtocolError
from common.files import StorageError
from common.security.keys import KeyFolder
from common.security.trust import open_trust
from fl_client.connection import Clock, client_to
from fl_client.identity import Identity, keep_trust, read_authority, read_trust
from fl_client.marks import read_marks
from fl_client.trusted import KnownTrust
from tests.fl_client.made_coordinator import serving
from tests.fl_client.made_identity import Authority, Made, make_home, of_version_7


def test_an_identity_is_what_was_enrolled(made: Made) -> None:
    identity = made.identity
    assert (identity.device, identity.name) == (made.device, "kitchen")
    assert identity.coordinator == made.authority.pin
    assert identity.trust.serial == 1


def test_it_shows_no_secret(made: Made) -> None:
    identity = made.identity
    assert "PrivateKey" not in repr(identity)
    assert identity.signing_key.private_bytes_raw().hex() not in repr(identity)


def test_a_file_that_others_may_read_is_no_key(made: Made) -> None:
    KeyFolder(made.home.identity, None).path("identity").chmod(0o644)
    with pytest.raises(ConfigError, match="FA-6007"):
        made.identity  # noqa: B018


@pytest.mark.parametrize("name", ["identity", "node"])
def test_keys_of_another_certificate_are_noticed(made: Made, name: str) -> None:
    other = Ed25519PrivateKey.generate() if name == "identity" else ec.generate_private_key(ec.SECP256R1())
    KeyFolder(made.home.identity, None).save(name, other)
    with pytest.raises(DeviceError, match="FA-4011"):
        made.identity  # noqa: B018


@pytest.mark.parametrize("file", ["certificate.pem", "trust.fas"])
def test_without_a_file_it_is_not_enrolled(made: Made, file: str) -> None:
    (made.home.identity / file).unlink()
    with pytest.raises(DeviceError, match="FA-4010"):
        made.identity  # noqa: B018


@pytest.mark.parametrize("data", [b"", b"x", b"\xff" * 500])
@pytest.mark.parametrize("file", ["certificate.pem", "trust.fas", "identity.key", "marks.json"])
def test_damage_is_explained(made: Made, file: str, data: bytes) -> None:
    (made.home.identity / file).write_bytes(data)
    with pytest.raises((ConfigError, DeviceError, ProtocolError), match=r"FA-(3016|3025|3029|4008|6005)"):
        made.identity  # noqa: B018


class TestTrust:
    def test_a_newer_statement_takes_the_place_of_an_older_one(self, made: Made) -> None:
        keep_trust(made.home, made.authority.trust_statement(serial=5), made.authority.pin)
        assert made.trust.serial == 5
        assert read_marks(made.home.marks).trust == 5

    def test_an_older_one_is_refused_also_when_the_file_was_put_back(self, made: Made) -> None:
        before = made.home.trust.read_bytes()
        keep_trust(made.home, made.authority.trust_statement(serial=5), made.authority.pin)
        with pytest.raises(ProtocolError, match="FA-3027"):
            keep_trust(made.home, made.authority.trust_statement(serial=4), made.authority.pin)
        assert made.trust.serial == 5
        made.home.trust.write_bytes(before)
        with pytest.raises(ProtocolError, match="FA-3027"):
            read_trust(made.home, made.authority.pin)

    def test_one_of_another_root_is_refused(self, made: Made) -> None:
        with pytest.raises(ProtocolError, match="FA-3026"):
            keep_trust(made.home, Authority.make().trust_statement(serial=9), made.authority.pin)
        assert made.trust.serial == 1

    def test_a_device_outlives_the_authority_that_certified_it(self, made: Made) -> None:
        other = Authority.make()
        ca = other.trust.device_ca
        keep_trust(made.home, made.authority.trust_statement(serial=2, device_ca=ca), made.authority.pin)
        assert made.identity.device == made.device


class TestKnownTrust:
    def test_it_asks_when_it_is_told_to(self, made: Made, tmp_path: Path) -> None:
        serial = [1]
        context = made.authority.server_context(tmp_path / "tls")
        with (
            serving(lambda path, body: made.authority.trust_statement(serial=serial[0]), context) as address,
            client_to(address, made.trust, insecure=False) as client,
        ):
            trust = KnownTrust(made.home, made.authority.pin, client, Clock())
            serial[0] = 2
            assert trust.current().serial == 1
            assert trust.newest().serial == 2
            assert trust.current().serial == 2

    def test_what_is_known_stays_when_nobody_answers(self, made: Made) -> None:
        with client_to("127.0.0.1:1", made.trust, insecure=False) as client:
            assert KnownTrust(made.home, made.authority.pin, client, Clock()).newest().serial == 1

    @pytest.mark.parametrize("days", [-400, 400])
    def test_what_has_expired_is_not_trusted(self, tmp_path: Path, days: int) -> None:
        made = make_home(tmp_path / "device")
        there = datetime.now(UTC) + timedelta(days=days)
        changes = {"serial": 2, "created": there, "expires": there + timedelta(days=365)}
        keep_trust(made.home, made.authority.trust_statement(**changes), made.authority.pin)
        with client_to("127.0.0.1:1", made.trust, insecure=False) as client:
            trust = KnownTrust(made.home, made.authority.pin, client, Clock())
            with pytest.raises(DeviceError, match="FA-4024"):
                trust.current()


def test_a_statement_of_the_made_authority_is_real(made: Made) -> None:
    assert open_trust(made.authority.trust_statement(), made.authority.pin).serial == 1


def test_identity_needs_the_passphrase_it_was_made_with(tmp_path: Path) -> None:
    made = make_home(tmp_path / "device")
    with pytest.raises(ConfigError, match="FA-6006"):
        Identity.load(made.home, b"00" * 32)


def test_lost_marks_are_not_taken_for_none(made: Made) -> None:
    made.home.marks.unlink()
    with pytest.raises(DeviceError, match=r"FA-4008.*lost"):
        made.identity  # noqa: B018


@pytest.mark.parametrize("file", ["certificate.pem", "trust.fas", "marks.json"])
def test_what_cannot_be_read_is_neither_damaged_nor_missing(made: Made, file: str) -> None:
    (made.home.identity / file).unlink()
    (made.home.identity / file).mkdir()
    with pytest.raises(StorageError, match="FA-8001"):
        made.identity  # noqa: B018


def test_an_authority_of_an_impossible_version_is_explained(made: Made) -> None:
    trust = made.authority.make_trust(device_ca=of_version_7(made.authority.ca))
    with pytest.raises(ProtocolError, match="FA-3025"):
        read_authority(trust)
