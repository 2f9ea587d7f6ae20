"""Sealing: for the holder of the private key, for one purpose, and for nobody else."""

from __future__ import annotations

from functools import cache

import pytest
from cryptography.hazmat.primitives import hpke
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ProtocolError
from common.security.sealing import MLKEM_BYTES, OVERHEAD, X25519_BYTES, OpeningKey, SealingKey, Suite

suites = pytest.mark.parametrize("suite", Suite)


@cache
def key_of(suite: Suite) -> OpeningKey:
    return OpeningKey.generate(suite)


@given(st.sampled_from(Suite), st.binary(max_size=200), st.binary(max_size=50))
def test_what_is_sealed_is_opened_and_grows_by_the_overhead(
    suite: Suite, plaintext: bytes, info: bytes
) -> None:
    key = key_of(suite)
    sealed = key.public.seal(plaintext, info)
    assert key.open(sealed, info) == plaintext
    assert key.open(memoryview(sealed), info) == plaintext
    assert len(sealed) == len(plaintext) + OVERHEAD[suite]


@suites
def test_no_two_seals_are_alike_and_none_shows_the_plaintext(suite: Suite) -> None:
    plaintext = b"the same every time " * 5
    seals = {key_of(suite).public.seal(plaintext, b"") for _ in range(20)}
    assert len(seals) == 20
    assert not [sealed for sealed in seals if b"same" in sealed]


@suites
def test_every_flipped_byte_cut_or_addition_is_refused(suite: Suite) -> None:
    sealed = key_of(suite).public.seal(b"payload", b"info")
    others = [
        sealed[:place] + bytes([sealed[place] ^ 0x80]) + sealed[place + 1 :] for place in range(len(sealed))
    ]
    others += [sealed[:length] for length in range(0, len(sealed), 7)]
    others += [sealed + b"\0", sealed + sealed, b"\0" + sealed]
    for other in others:
        with pytest.raises(ProtocolError, match="FA-3020"):
            key_of(suite).open(other, b"info")


@suites
def test_another_key_or_another_purpose_opens_nothing(suite: Suite) -> None:
    sealed = key_of(suite).public.seal(b"payload", b"info")
    for key, info in ((OpeningKey.generate(suite), b"info"), (key_of(suite), b"other"), (key_of(suite), b"")):
        with pytest.raises(ProtocolError, match="FA-3020"):
            key.open(sealed, info)


def test_one_half_of_a_hybrid_key_opens_nothing() -> None:
    """Whoever breaks X25519 alone, or ML-KEM alone, has nothing."""
    key, other = key_of(Suite.HYBRID), OpeningKey.generate(Suite.HYBRID)
    sealed = key.public.seal(b"payload", b"info")
    halves = (OpeningKey(key.x25519, other.mlkem), OpeningKey(other.x25519, key.mlkem))
    for half in (*halves, OpeningKey(key.x25519, None)):
        with pytest.raises(ProtocolError, match="FA-3020"):
            half.open(sealed, b"info")


@suites
@pytest.mark.parametrize("point", [bytes(32), b"\x01" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f"])
def test_a_point_of_small_order_is_refused_on_both_sides(suite: Suite, point: bytes) -> None:
    """RFC 9180, 7.1.4: else a sender could force the shared secret."""
    key = key_of(suite)
    with pytest.raises(ProtocolError, match="FA-3019"):
        SealingKey(suite, key.public.raw[:-32] + point).seal(b"payload", b"")
    sealed = key.public.seal(b"payload", b"")
    at = OVERHEAD[suite] - 16 - 32
    with pytest.raises(ProtocolError, match="FA-3020"):
        key.open(sealed[:at] + point + sealed[at + 32 :], b"")


@pytest.mark.parametrize(
    ("suite", "raw"),
    [
        (Suite.X25519, b""),
        (Suite.X25519, b"k" * 31),
        (Suite.X25519, b"k" * 33),
        (Suite.X25519, b"k" * (MLKEM_BYTES + X25519_BYTES)),
        (Suite.HYBRID, b"k" * 32),
        (Suite.HYBRID, b"k" * MLKEM_BYTES),
        (Suite.HYBRID, b"\xff" * (MLKEM_BYTES + X25519_BYTES)),
        (Suite.HYBRID, b"k" * (MLKEM_BYTES + X25519_BYTES + 1)),
    ],
)
def test_a_malformed_key_is_refused(suite: Suite, raw: bytes) -> None:
    with pytest.raises(ProtocolError, match="FA-3019"):
        SealingKey(suite, raw).seal(b"payload", b"info")


def test_the_same_x25519_key_has_another_id_in_another_suite() -> None:
    raw = key_of(Suite.X25519).public.raw
    assert SealingKey(Suite.X25519, raw).id != SealingKey(Suite.HYBRID, raw).id


def test_the_hybrid_is_the_one_of_rfc_9180_with_x_wing() -> None:
    key = key_of(Suite.HYBRID)
    assert key.mlkem is not None
    suite = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
    private = hpke.MLKEM768X25519PrivateKey(key.mlkem, key.x25519)
    assert suite.decrypt(key.public.seal(b"payload", b"info"), private, info=b"info") == b"payload"


@suites
def test_no_representation_shows_the_private_key(suite: Suite) -> None:
    key = key_of(suite)
    shown = repr(key) + str(key)
    secret = key.x25519.private_bytes_raw()
    assert secret.hex() not in shown
    assert repr(secret)[2:-1] not in shown
