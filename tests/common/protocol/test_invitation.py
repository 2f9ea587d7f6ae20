"""The string an operator hands over: whole, or refused."""

from __future__ import annotations

import base64
import hashlib
import logging
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigError
from common.protocol.invitation import PREFIX, Invitation

PIN = hashlib.sha256(b"root").hexdigest()
INVITATION = Invitation("coordinator.example:8650", PIN, bytes(range(16)))
TEXT = str(INVITATION)

hosts = st.one_of(
    st.from_regex(r"[A-Za-z0-9.-]{1,253}", fullmatch=True),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda address: f"[{address}]"),
)
addresses = st.tuples(hosts, st.integers(1, 65_535)).map(lambda parts: f"{parts[0]}:{parts[1]}")


def refused(text: str) -> None:
    with pytest.raises(ConfigError, match="FA-6009"):
        Invitation.parse(text)


def spelled(data: bytes) -> str:
    """`data` as an invitation, with a good checksum."""
    whole = data + hashlib.sha256(data).digest()[:4]
    return PREFIX + base64.urlsafe_b64encode(whole).decode().rstrip("=")


@given(addresses, st.binary(min_size=32, max_size=32), st.binary(min_size=16, max_size=16))
def test_an_invitation_comes_back_as_it_was(address: str, pin: bytes, token: bytes) -> None:
    invitation = Invitation(address, pin.hex(), token)
    text = str(invitation)
    assert Invitation.parse(text) == invitation
    assert Invitation.parse(f" {text}\r\n") == invitation
    assert all(char.isalnum() or char in "-_" for char in text)


def test_every_new_one_has_another_token() -> None:
    tokens = {Invitation.new("localhost:1", PIN).token for _ in range(50)}
    assert len(tokens) == 50
    assert {len(token) for token in tokens} == {16}


def test_any_other_character_anywhere_is_refused() -> None:
    for place in range(len(TEXT)):
        for other in "aB0_-=+/ é\0":
            if other != TEXT[place]:
                refused(TEXT[:place] + other + TEXT[place + 1 :])


def test_a_flip_of_any_bit_is_refused() -> None:
    for place in range(len(TEXT)):
        for bit in range(7):
            refused(TEXT[:place] + chr(ord(TEXT[place]) ^ 1 << bit) + TEXT[place + 1 :])


def test_every_truncation_and_addition_is_refused() -> None:
    for length in range(len(TEXT)):
        refused(TEXT[:length])
    for other in (TEXT + "A", TEXT + "==", TEXT * 2, PREFIX + TEXT, f"{TEXT} {TEXT}", TEXT[4:], TEXT.upper()):
        refused(other)
    refused(PREFIX + "A" * 10_000_000)


def test_two_characters_that_changed_places_are_found() -> None:
    for place in range(len(PREFIX), len(TEXT) - 1):
        one, other = TEXT[place : place + 2]
        if one != other:
            refused(TEXT[:place] + other + one + TEXT[place + 2 :])


@pytest.mark.parametrize(
    "address",
    ["", ":1", "host", "host:", "host:0", "host:65536", "host:99999", "host:08650", "host:1\n", "host:-1",
     "a b:1", "host:1:1", "[::1:1", "::1:1", "ho\x00st:1", "host/path:1", "user@host:1", "host:1?",
     "x" * 254 + ":1", "[zz]:1", "hóst:1", "host:١"],
)  # fmt: skip
def test_an_address_that_is_none_is_refused_by_both_sides(address: str) -> None:
    refused(spelled(bytes(16) + bytes.fromhex(PIN) + address.encode()))
    with pytest.raises(ConfigError, match="FA-6009"):
        Invitation.new(address, PIN)


@pytest.mark.parametrize("data", [b"", bytes(15), bytes(48), bytes(47) + b"h:1", bytes(48) + b"\xff:1"])
def test_too_little_in_it_is_refused(data: bytes) -> None:
    refused(spelled(data))


@given(st.text(max_size=200))
def test_garbage_is_refused(text: str) -> None:
    refused(text)
    refused(PREFIX + text)


@given(st.binary(max_size=200))
def test_a_good_checksum_of_anything_is_one_spelling_or_refused(data: bytes) -> None:
    with suppress(ConfigError):
        assert str(Invitation.parse(spelled(data))) == spelled(data)


def test_neither_a_representation_nor_an_error_shows_the_token(caplog: pytest.LogCaptureFixture) -> None:
    token = INVITATION.token
    logging.getLogger("test").warning("%r", INVITATION)
    with pytest.raises(ConfigError) as caught:
        Invitation.parse(TEXT[:-1])
    shown = repr(INVITATION) + caplog.text + str(caught.value) + repr(caught.value.__cause__)
    for secret in (
        token.hex(),
        repr(token)[2:-1],
        TEXT,
        TEXT[:30],
        base64.urlsafe_b64encode(token).decode()[:-3],
    ):
        assert secret not in shown
