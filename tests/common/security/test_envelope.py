"""The envelope: read by the coordinator alone, believed only from the device that signed it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ProtocolError
from common.security.envelope import (
    HEADER_BYTES,
    LARGEST_OVERHEAD,
    SIGNATURE_BYTES,
    Binding,
    open_envelope,
    parse_envelope,
    seal,
    verify_envelope,
)
from common.security.sealing import OVERHEAD, OpeningKey, Suite
from common.security.statement import key_id, raw_public, sign_statement

DEVICE, OTHER = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
SIGNER = raw_public(DEVICE)
BINDING = Binding(b"r" * 8, 7, b"d" * 16, 3, b"p" * 32, b"b" * 32, 2_000_000_000)
PAYLOAD = b"an answer"
LIMIT = 10_000
suites = pytest.mark.parametrize("suite", Suite)

bindings = st.builds(
    Binding,
    run=st.binary(min_size=8, max_size=8),
    round=st.integers(0, 2**32 - 1),
    device=st.binary(min_size=16, max_size=16),
    counter=st.integers(0, 2**53),
    plan=st.binary(min_size=32, max_size=32),
    base=st.binary(min_size=32, max_size=32),
    not_after=st.integers(0, 2**64 - 1),
)


@cache
def key_of(suite: Suite) -> OpeningKey:
    return OpeningKey.generate(suite)


@cache
def sealed_with(suite: Suite, counter: int = 3) -> bytes:
    return seal(PAYLOAD, replace(BINDING, counter=counter), DEVICE, key_of(suite).public)


def read(data: bytes, key: OpeningKey, signer: bytes = SIGNER) -> bytes:
    return open_envelope(parse_envelope(data, LIMIT), signer, key)


@given(st.sampled_from(Suite), st.binary(max_size=300), bindings)
def test_an_answer_comes_back_with_what_it_is_bound_to(
    suite: Suite, payload: bytes, binding: Binding
) -> None:
    data = seal(payload, binding, DEVICE, key_of(suite).public)
    envelope = parse_envelope(memoryview(data), len(data))
    assert envelope.binding == binding
    assert (envelope.suite, envelope.recipient) == (suite, key_of(suite).public.id)
    assert envelope.signer == key_id(SIGNER)
    assert open_envelope(envelope, SIGNER, key_of(suite)) == payload


@suites
def test_the_overhead_is_what_it_is_said_to_be(suite: Suite) -> None:
    overhead = len(sealed_with(suite)) - len(PAYLOAD)
    assert overhead == HEADER_BYTES + OVERHEAD[suite] + SIGNATURE_BYTES <= LARGEST_OVERHEAD <= 1_500


def test_the_payload_is_not_to_be_seen() -> None:
    data = seal(b"secret " * 50, BINDING, DEVICE, key_of(Suite.HYBRID).public)
    assert b"secret" not in data


@suites
@pytest.mark.parametrize("bit", range(8))
def test_a_flip_of_any_bit_is_refused(suite: Suite, bit: int) -> None:
    for place in range(len(sealed_with(suite))):
        data = bytearray(sealed_with(suite))
        data[place] ^= 1 << bit
        with pytest.raises(ProtocolError, match=r"FA-302[13]"):
            read(bytes(data), key_of(suite))


@suites
def test_every_truncation_is_refused(suite: Suite) -> None:
    for length in range(len(sealed_with(suite))):
        with pytest.raises(ProtocolError, match="FA-3021"):
            parse_envelope(sealed_with(suite)[:length], LIMIT)


@suites
@given(st.binary(min_size=1, max_size=200))
def test_what_follows_or_goes_before_is_refused(suite: Suite, more: bytes) -> None:
    data = sealed_with(suite)
    for other in (data + more, more + data, data + data, data[:HEADER_BYTES] + data):
        with pytest.raises(ProtocolError, match=r"FA-302[123]"):
            read(other, key_of(suite))


@suites
def test_the_head_of_one_and_the_tail_of_another_are_refused(suite: Suite) -> None:
    one, other = sealed_with(suite), sealed_with(suite, counter=4)
    for place in range(1, len(one)):
        spliced = one[:place] + other[place:]
        if spliced not in (one, other):
            with pytest.raises(ProtocolError, match=r"FA-3023"):
                read(spliced, key_of(suite))


@given(bindings)
def test_a_header_that_was_changed_and_signed_by_somebody_else_is_refused(binding: Binding) -> None:
    """Strip and sign again: whoever takes another's ciphertext cannot make it theirs, not even the header."""
    key = key_of(Suite.X25519)
    stolen = sealed_with(Suite.X25519)[HEADER_BYTES:-SIGNATURE_BYTES]
    mine = seal(PAYLOAD, binding, OTHER, key.public)
    forged = mine[:HEADER_BYTES] + stolen
    forged += OTHER.sign(parse_envelope(forged + bytes(SIGNATURE_BYTES), LIMIT).signed)
    with pytest.raises(ProtocolError, match="FA-3020"):
        read(forged, key, raw_public(OTHER))


def test_an_answer_of_one_device_is_not_anothers() -> None:
    envelope = parse_envelope(sealed_with(Suite.X25519), LIMIT)
    with pytest.raises(ProtocolError, match="FA-3023"):
        verify_envelope(envelope, raw_public(OTHER))
    posing = replace(envelope, signer=key_id(raw_public(OTHER)))
    with pytest.raises(ProtocolError, match="FA-3023"):
        verify_envelope(posing, raw_public(OTHER))


def test_a_key_that_is_no_point_on_the_curve_verifies_nothing() -> None:
    broken = b"\xff" * 32
    envelope = replace(parse_envelope(sealed_with(Suite.X25519), LIMIT), signer=key_id(broken))
    with pytest.raises(ProtocolError, match="FA-3023"):
        verify_envelope(envelope, broken)


def test_a_weaker_suite_than_the_coordinators_is_refused() -> None:
    hybrid = key_of(Suite.HYBRID)
    half = OpeningKey(hybrid.x25519, None)
    downgraded = seal(PAYLOAD, BINDING, DEVICE, half.public)
    with pytest.raises(ProtocolError, match="FA-3024"):
        read(downgraded, hybrid)
    with pytest.raises(ProtocolError, match="FA-3024"):
        read(sealed_with(Suite.HYBRID), half)


def test_a_suite_in_the_header_that_is_not_the_one_it_was_sealed_with_is_refused() -> None:
    """Even signed by the device itself, with the id of the right key."""
    hybrid = key_of(Suite.HYBRID)
    data = bytearray(seal(b"x" * 2_000, BINDING, DEVICE, hybrid.public))
    data[4] = Suite.X25519
    envelope = parse_envelope(bytes(data), LIMIT)
    data[-SIGNATURE_BYTES:] = DEVICE.sign(envelope.signed)
    with pytest.raises(ProtocolError, match="FA-3024"):
        read(bytes(data), hybrid)
    with pytest.raises(ProtocolError, match="FA-3024"):
        read(bytes(data), OpeningKey(hybrid.x25519, None))


@suites
def test_an_answer_to_another_key_is_refused_before_it_is_opened(suite: Suite) -> None:
    with pytest.raises(ProtocolError, match="FA-3024"):
        read(sealed_with(suite), OpeningKey.generate(suite))


@suites
def test_a_key_that_only_has_the_right_id_opens_nothing(suite: Suite) -> None:
    stranger, key = OpeningKey.generate(suite), key_of(suite)
    data = bytearray(seal(PAYLOAD, BINDING, DEVICE, stranger.public))
    at = HEADER_BYTES - 8 - 32 - 32 - 8 - 4
    assert bytes(data[at : at + 8]) == stranger.public.id
    data[at : at + 8] = key.public.id
    data[-SIGNATURE_BYTES:] = DEVICE.sign(parse_envelope(bytes(data), LIMIT).signed)
    with pytest.raises(ProtocolError, match="FA-3020"):
        read(bytes(data), key)


def test_a_statement_of_the_same_key_is_no_signature_of_an_envelope() -> None:
    data = bytearray(sealed_with(Suite.X25519))
    signed = parse_envelope(bytes(data), LIMIT).signed
    data[-SIGNATURE_BYTES:] = sign_statement("renewal", signed, DEVICE)[12:76]
    with pytest.raises(ProtocolError, match="FA-3023"):
        read(bytes(data), key_of(Suite.X25519))


def test_more_than_the_limit_is_refused_unread() -> None:
    data = sealed_with(Suite.X25519)
    parse_envelope(data, len(data))
    with pytest.raises(ProtocolError, match=f"FA-3022.*{len(data)} bytes, {len(data) - 1} are"):
        parse_envelope(data, len(data) - 1)


@pytest.mark.parametrize("suite", [0, 3, 127, 255])
def test_an_unknown_suite_is_refused(suite: int) -> None:
    data = bytearray(sealed_with(Suite.X25519))
    data[4] = suite
    with pytest.raises(ProtocolError, match=f"FA-3021.*{suite}"):
        parse_envelope(bytes(data), LIMIT)


@pytest.mark.parametrize("length", [0, 1, OVERHEAD[Suite.X25519] - 1, 2**31, 2**32 - 1])
def test_a_length_that_is_not_so_is_refused(length: int) -> None:
    data = bytearray(sealed_with(Suite.X25519))
    data[HEADER_BYTES - 4 : HEADER_BYTES] = length.to_bytes(4, "big")
    with pytest.raises(ProtocolError, match="FA-3021"):
        parse_envelope(bytes(data), LIMIT)


def test_a_ciphertext_shorter_than_any_is_refused() -> None:
    data = sealed_with(Suite.X25519)
    short = OVERHEAD[Suite.X25519] - 1
    header = data[: HEADER_BYTES - 4] + short.to_bytes(4, "big")
    with pytest.raises(ProtocolError, match="FA-3021"):
        parse_envelope(header + bytes(short + SIGNATURE_BYTES), LIMIT)


@pytest.mark.parametrize(
    "wrong",
    [{"run": b"r" * 7}, {"run": b"r" * 16}, {"device": b""}, {"plan": b"p" * 33}, {"base": b"b" * 31}],
)
def test_a_binding_that_would_be_cut_or_padded_is_refused(wrong: dict[str, bytes]) -> None:
    with pytest.raises(ValueError, match="another length"):
        replace(BINDING, **wrong)  # type: ignore[arg-type]


def test_the_digest_names_what_was_sent() -> None:
    digests = {
        parse_envelope(data, LIMIT).digest
        for data in (sealed_with(Suite.X25519), sealed_with(Suite.X25519, 4), sealed_with(Suite.HYBRID))
    }
    assert len(digests) == 3
    assert parse_envelope(memoryview(sealed_with(Suite.X25519)), LIMIT).digest in digests


@given(st.binary(max_size=400))
def test_garbage_is_refused(data: bytes) -> None:
    for whole in (data, b"FAE1" + data, sealed_with(Suite.X25519)[:HEADER_BYTES] + data):
        with pytest.raises(ProtocolError):
            read(whole, key_of(Suite.X25519))
