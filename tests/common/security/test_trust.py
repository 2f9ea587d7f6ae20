"""Trust statements: under the pinned root, newer than what was seen, and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ProtocolError
from common.security.canonical import canonical
from common.security.sealing import OpeningKey, Suite
from common.security.statement import raw_public, sign_statement
from common.security.trust import LARGEST_TRUST, EnvelopeKey, Trust, check_time, fingerprint, open_trust
from tests.common.security.made_messages import Coordinator, pem

MINE, OTHER = Coordinator.make(), Coordinator.make()
TRUST = MINE.trust()
STATEMENT = sign_statement("trust", canonical(TRUST), MINE.root_key)
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


def test_a_trust_statement_comes_back_with_its_keys() -> None:
    trust = open_trust(STATEMENT, MINE.pin)
    assert trust == TRUST
    assert trust.plan_keys() == [raw_public(MINE.plan_key)]
    assert trust.release_keys() == [raw_public(MINE.release_key)]
    assert trust.envelope_key(MINE.opening.public.id) == MINE.opening.public
    assert trust.envelope_key(OTHER.opening.public.id) is None
    assert trust.envelope_key(b"") is None


def test_keys_of_both_suites_are_found_by_their_id() -> None:
    keys = [OpeningKey.generate(suite).public for suite in (*Suite, *Suite)]
    entries = tuple(EnvelopeKey(suite=key.suite, key=key.raw.hex()) for key in keys)
    trust = open_trust(MINE.signed_trust(envelope=entries), MINE.pin)
    assert [trust.envelope_key(key.id) for key in keys] == keys


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@pytest.mark.parametrize("bit", [0, 3, 7])
def test_a_flip_of_any_byte_is_refused(bit: int) -> None:
    for place in range(len(STATEMENT)):
        data = bytearray(STATEMENT)
        data[place] ^= 1 << bit
        with pytest.raises(ProtocolError):
            open_trust(bytes(data), MINE.pin)


def test_every_truncation_is_refused() -> None:
    for length in range(len(STATEMENT)):
        with pytest.raises(ProtocolError, match="FA-3025"):
            open_trust(STATEMENT[:length], MINE.pin)


def test_two_in_a_row_and_a_splice_of_two_are_refused() -> None:
    newer = MINE.signed_trust(serial=4)
    for data in (
        STATEMENT + STATEMENT,
        STATEMENT + b"\n",
        newer[:76] + STATEMENT[76:],
        STATEMENT[:76] + newer[76:],
    ):
        with pytest.raises(ProtocolError, match=r"FA-3025|FA-3018"):
            open_trust(data, MINE.pin)


def test_another_root_is_refused_and_both_are_named() -> None:
    with pytest.raises(ProtocolError, match=f"FA-3026.*{OTHER.pin[:16]}.*{MINE.pin[:16]}"):
        open_trust(OTHER.signed_trust(), MINE.pin)


def test_the_right_root_in_a_statement_that_another_signed_is_refused() -> None:
    forged = sign_statement("trust", canonical(TRUST), OTHER.root_key)
    with pytest.raises(ProtocolError, match="FA-3017"):
        open_trust(forged, MINE.pin)


@pytest.mark.parametrize("key", ["plan_key", "release_key", "ca_key"])
def test_a_key_under_the_root_is_not_the_root(key: str) -> None:
    forged = sign_statement("trust", canonical(TRUST), getattr(MINE, key))
    with pytest.raises(ProtocolError, match="FA-3017"):
        open_trust(forged, MINE.pin)


def test_another_kind_of_statement_by_the_root_is_refused() -> None:
    for kind in ("plan", "release", "renewal"):
        with pytest.raises(ProtocolError, match="FA-3018"):
            open_trust(sign_statement(kind, canonical(TRUST), MINE.root_key), MINE.pin)


def test_an_older_one_than_was_seen_is_refused() -> None:
    open_trust(STATEMENT, MINE.pin, at_least=3)
    with pytest.raises(ProtocolError, match="FA-3027"):
        open_trust(STATEMENT, MINE.pin, at_least=4)


@pytest.mark.parametrize(
    "root", ["", "no certificate", pem(MINE.root).replace("MII", "AAA", 1), "\x00" * 100]
)
def test_a_root_that_is_no_certificate_is_refused(root: str) -> None:
    with pytest.raises(ProtocolError, match="FA-3025"):
        open_trust(MINE.signed_trust(root=root), MINE.pin)


def test_a_root_with_another_kind_of_key_is_refused() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fedaudio root")])
    root = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    with pytest.raises(ProtocolError, match="FA-3026"):
        open_trust(MINE.signed_trust(root=pem(root)), fingerprint(root))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"serial":3', '"serial":3,"serial":3'),
        ('"serial":3', '"serial":4,"serial":3'),
        ('"serial":3', '"serial": 3'),
        ('"serial":3', '"serial":3.0'),
        ('"serial":3', '"serial":0'),
        ('"serial":3', '"serial":9007199254740993'),
        ('"suite":2', '"suite":3'),
        ('"suite":2', '"suite":"2"'),
        ('"suite":2', '"suite":2.0'),
        ('"plan":["', '"plan":["00'),
        ('"plan":["', '"plan":[],"plan":["'),
        ("{", '{"extra":1,'),
        ("{", "[{"),
    ],
)
def test_a_body_that_is_signed_and_not_canonical_is_refused(old: str, new: str) -> None:
    text = canonical(TRUST).decode()
    assert old in text
    forged = sign_statement("trust", text.replace(old, new, 1).encode(), MINE.root_key)
    with pytest.raises(ProtocolError, match="FA-3025"):
        open_trust(forged, MINE.pin)


def test_a_time_without_a_zone_is_refused() -> None:
    text = canonical(TRUST).decode().replace('Z","expires"', '","expires"')
    with pytest.raises(ProtocolError, match="FA-3025"):
        open_trust(sign_statement("trust", text.encode(), MINE.root_key), MINE.pin)


def test_a_body_that_is_too_long_is_refused_unread() -> None:
    with pytest.raises(ProtocolError, match=r"FA-3025.*too long"):
        open_trust(STATEMENT + bytes(LARGEST_TRUST), MINE.pin)


def test_a_key_that_is_named_under_the_wrong_suite_cannot_be_sealed_to() -> None:
    entry = EnvelopeKey(suite=Suite.HYBRID, key="00" * 32)
    with pytest.raises(ProtocolError, match="FA-3019"):
        entry.sealing_key().seal(b"", b"")


@given(st.binary(max_size=300))
def test_garbage_is_refused(data: bytes) -> None:
    for whole in (data, STATEMENT[:76] + data):
        with pytest.raises(ProtocolError, match="FA-3025"):
            open_trust(whole, MINE.pin)


def test_the_fingerprint_is_of_the_certificate_and_not_of_its_key_alone() -> None:
    assert len({fingerprint(certificate) for certificate in (MINE.root, MINE.ca, OTHER.root)}) == 3


@pytest.mark.parametrize("days", [0, 0.5, 1])
def test_within_its_time_a_thing_is_valid(days: float) -> None:
    check_time(NOW, NOW + timedelta(days=1), "plan", NOW + timedelta(days=days))


@pytest.mark.parametrize("days", [-3650, -0.001, 1.001, 3650])
def test_outside_its_time_it_is_not_and_the_clock_is_named(days: float) -> None:
    with pytest.raises(ProtocolError, match=r"FA-3028.*plan.*clock says"):
        check_time(NOW, NOW + timedelta(days=1), "plan", NOW + timedelta(days=days))


def test_without_a_time_it_is_now() -> None:
    now = datetime.now(UTC)
    check_time(now, now + timedelta(minutes=5), "plan")
    with pytest.raises(ProtocolError, match="FA-3028"):
        check_time(now - timedelta(days=2), now - timedelta(days=1), "plan")


def test_the_statement_holds_no_private_key() -> None:
    trust = Trust.model_validate(TRUST.model_dump())
    shown = canonical(trust)
    for key in (MINE.plan_key, MINE.release_key, MINE.root_key, MINE.ca_key):
        assert key.private_bytes_raw().hex().encode() not in shown
