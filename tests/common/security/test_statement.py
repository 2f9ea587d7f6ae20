"""Signed statements: changed, cut, mixed or meant for something else, they are refused."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ProtocolError
from common.security.statement import (
    SIGNATURE_BYTES,
    Kind,
    check_detached,
    key_id,
    open_statement,
    raw_public,
    sign_detached,
    sign_statement,
)

KEY, OTHER = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
SIGNERS = [raw_public(OTHER), raw_public(KEY)]
KINDS: tuple[Kind, ...] = ("trust", "plan", "release", "renewal")
BODY = b'{"any":"body"}'
STATEMENT = sign_statement("plan", BODY, KEY)


@given(st.sampled_from(KINDS), st.binary(max_size=200))
def test_a_statement_comes_back_as_it_was(kind: Kind, body: bytes) -> None:
    assert open_statement(kind, sign_statement(kind, body, KEY), SIGNERS) == body
    assert check_detached(kind, sign_detached(kind, body, KEY), body, SIGNERS) == raw_public(KEY)


def test_a_statement_is_its_detached_signature_and_its_body() -> None:
    assert sign_detached("plan", BODY, KEY) + BODY == STATEMENT
    assert len(STATEMENT) == SIGNATURE_BYTES + len(BODY)


@pytest.mark.parametrize("bit", range(8))
def test_a_flip_of_any_bit_is_refused(bit: int) -> None:
    for place in range(len(STATEMENT)):
        data = bytearray(STATEMENT)
        data[place] ^= 1 << bit
        code = "FA-3016" if place < 4 else "FA-3017" if place < 12 else "FA-3018"
        with pytest.raises(ProtocolError, match=code):
            open_statement("plan", bytes(data), SIGNERS)


def test_every_truncation_is_refused() -> None:
    for length in range(len(STATEMENT)):
        with pytest.raises(ProtocolError, match=r"FA-301[68]"):
            open_statement("plan", STATEMENT[:length], SIGNERS)


@given(st.binary(min_size=1, max_size=100))
def test_what_follows_or_goes_before_is_refused(more: bytes) -> None:
    for data in (STATEMENT + more, more + STATEMENT, STATEMENT + STATEMENT):
        with pytest.raises(ProtocolError):
            open_statement("plan", data, SIGNERS)


@given(st.integers(1, len(STATEMENT) - 1))
def test_the_head_of_one_and_the_tail_of_another_are_refused(place: int) -> None:
    other = sign_statement("plan", BODY.replace(b"any", b"two"), KEY)
    spliced = STATEMENT[:place] + other[place:]
    if spliced in (STATEMENT, other):  # cut within what both begin with
        return
    with pytest.raises(ProtocolError):
        open_statement("plan", spliced, SIGNERS)


@pytest.mark.parametrize("made", KINDS)
@pytest.mark.parametrize("read", KINDS)
def test_a_statement_of_one_kind_is_none_of_another(made: Kind, read: Kind) -> None:
    if made == read:
        return
    with pytest.raises(ProtocolError, match="FA-3018"):
        open_statement(read, sign_statement(made, BODY, KEY), SIGNERS)


def test_a_key_that_is_not_among_the_signers_is_refused_and_named() -> None:
    for signers in ([], [raw_public(OTHER)]):
        with pytest.raises(ProtocolError, match=f"FA-3017.*{key_id(raw_public(KEY)).hex()}"):
            open_statement("plan", STATEMENT, signers)


def test_a_key_that_only_claims_the_id_of_a_signer_is_refused() -> None:
    forged = bytearray(sign_statement("plan", BODY, OTHER))
    forged[4:12] = key_id(raw_public(KEY))
    with pytest.raises(ProtocolError, match="FA-3018"):
        open_statement("plan", bytes(forged), [raw_public(KEY)])


def test_a_trusted_key_that_is_no_point_on_the_curve_verifies_nothing() -> None:
    broken = b"\xff" * 32
    forged = b"FAS1" + key_id(broken) + bytes(64) + BODY
    with pytest.raises(ProtocolError, match="FA-3018"):
        open_statement("plan", forged, [broken])


def test_the_group_order_added_to_a_signature_is_refused() -> None:
    """RFC 8032, 5.1.7: S is below the order, or one statement had many signatures."""
    order = 2**252 + 27742317777372353535851937790883648493
    s = int.from_bytes(STATEMENT[44:76], "little") + order
    forged = STATEMENT[:44] + s.to_bytes(32, "little") + STATEMENT[76:]
    with pytest.raises(ProtocolError, match="FA-3018"):
        open_statement("plan", forged, SIGNERS)


@given(st.binary(max_size=200))
def test_garbage_is_refused(data: bytes) -> None:
    for whole in (data, b"FAS1" + data, STATEMENT[:12] + data):
        with pytest.raises(ProtocolError):
            open_statement("plan", whole, SIGNERS)
