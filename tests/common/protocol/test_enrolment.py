"""Messages of enrolment: within bounds, in one spelling, and no secret shown."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from common.errors import ProtocolError
from common.protocol.enrolment import LARGEST_REQUEST, Enrolled, EnrolmentRequest, Refused, RenewalRequest
from common.security.canonical import canonical, read_canonical
from common.security.certificates import check_node_key, read_node_key, read_request
from common.security.statement import open_statement, raw_public
from tests.common.security.made_messages import Coordinator, Device

MINE, DEVICE, TOKEN = Coordinator.make(), Device("kitchen"), bytes(range(16))
ENROLMENT = DEVICE.enrolment(TOKEN)
RENEWAL = DEVICE.renewal("abc123")


def test_a_request_comes_back_and_proves_both_keys() -> None:
    data = canonical(ENROLMENT)
    assert len(data) < LARGEST_REQUEST
    request = read_canonical(EnrolmentRequest, data)
    assert isinstance(request, EnrolmentRequest)
    assert request == ENROLMENT
    assert read_request(request.request.encode()) == ("kitchen", raw_public(DEVICE.identity))
    check_node_key(
        request.request.encode(), read_node_key(request.node_key.encode()), bytes.fromhex(request.node_proof)
    )


def test_a_renewal_comes_back_from_the_identity_that_signed_it() -> None:
    assert len(RENEWAL) < LARGEST_REQUEST
    body = open_statement("renewal", RENEWAL, [raw_public(DEVICE.identity)])
    request = read_canonical(RenewalRequest, body)
    assert isinstance(request, RenewalRequest)
    assert (request.device, request.serial) == (DEVICE.id, "abc123")


def test_a_flip_of_any_byte_of_a_renewal_is_refused() -> None:
    for place in range(len(RENEWAL)):
        data = bytearray(RENEWAL)
        data[place] ^= 1
        with pytest.raises(ProtocolError, match=r"FA-301[678]"):
            open_statement("renewal", bytes(data), [raw_public(DEVICE.identity)])


@pytest.mark.parametrize(
    "wrong",
    [
        {"token": "0" * 31},
        {"token": "0" * 33},
        {"token": "G" * 32},
        {"token": "A" * 32},
        {"token": None},
        {"request": "x" * 4097},
        {"node_key": "x" * 4097},
        {"node_proof": ""},
        {"node_proof": "0"},
        {"node_proof": "00" * 129},
        {"node_proof": "zz"},
        {"device": DEVICE.id},
    ],
)
def test_a_request_out_of_bounds_is_refused(wrong: dict[str, object]) -> None:
    document = ENROLMENT.model_dump() | wrong
    assert isinstance(read_canonical(EnrolmentRequest, json.dumps(document).encode()), str)


@pytest.mark.parametrize(
    "wrong",
    [{"device": "d" * 31}, {"device": "../" * 11}, {"serial": ""}, {"serial": "-1"},
     {"serial": "0" * 41}, {"token": "0" * 32}],
)  # fmt: skip
def test_a_renewal_out_of_bounds_is_refused(wrong: dict[str, object]) -> None:
    document = json.loads(RENEWAL[76:]) | wrong
    assert isinstance(
        read_canonical(RenewalRequest, json.dumps(document, separators=(",", ":")).encode()), str
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"token"', '"token":"' + "0" * 32 + '","token"'),
        (":", ": "),
        ("\\n", "\\u000a"),
        ("{", '{"extra":"",'),
    ],
)
def test_another_spelling_is_refused(old: str, new: str) -> None:
    text = canonical(ENROLMENT).decode()
    assert old in text
    assert isinstance(read_canonical(EnrolmentRequest, text.replace(old, new, 1).encode()), str)


@given(
    st.sampled_from(["active", "pending"]),
    st.text("0123456789abcdef", min_size=32, max_size=32),
    st.text(max_size=500),
)
def test_answers_come_back_as_they_were(state: str, device: str, text: str) -> None:
    enrolled = Enrolled(state=state, device=device, certificate=text)  # type: ignore[arg-type]
    assert read_canonical(Enrolled, canonical(enrolled)) == enrolled
    refused = Refused(code="FA-5001", happened=text, remedy=text)
    assert read_canonical(Refused, canonical(refused)) == refused


def test_what_a_coordinator_says_cannot_move_a_devices_cursor() -> None:
    said = json.dumps({"code": "FA-5001", "happened": "\x1b[2J", "remedy": ""}, separators=(",", ":"))
    assert isinstance(read_canonical(Refused, said.encode()), str)
    assert Refused.model_validate_json(said).happened == " [2J"


@given(st.binary(max_size=200))
def test_garbage_is_refused(data: bytes) -> None:
    for model in (EnrolmentRequest, RenewalRequest, Enrolled, Refused):
        assert isinstance(read_canonical(model, data), str)


def test_no_representation_and_no_fault_shows_the_token() -> None:
    shown = repr(ENROLMENT) + str(ENROLMENT)
    fault = read_canonical(EnrolmentRequest, canonical(ENROLMENT).replace(b'"request"', b'"other"'))
    misspelled = read_canonical(
        EnrolmentRequest, canonical(ENROLMENT).replace(TOKEN.hex().encode(), b"G" * 32)
    )
    for text in (shown, str(fault), str(misspelled)):
        assert TOKEN.hex() not in text
        assert "G" * 32 not in text
    with pytest.raises(ValidationError):
        EnrolmentRequest.model_validate({})
