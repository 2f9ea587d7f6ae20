"""Answers: every value survives the trip; no bytes do more than be refused."""

from __future__ import annotations

import json
import math
import struct
from contextlib import suppress
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ProtocolError
from common.protocol.answer import (
    CLIP_LIMIT,
    LARGEST_NOTE,
    Answer,
    PrivacySpent,
    Refusal,
    Report,
    decode_answer,
    encode_answer,
    encode_refusal,
)
from common.protocol.tensors import Weights, encode_weights
from common.security.canonical import canonical

SCHEMA = {"layer.weight": (2, 3), "bias": (3,), "scale": ()}
DELTA: Weights = {
    "layer.weight": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3),
    "bias": np.array([1e-3, -2.5, 0], np.float32),
    "scale": np.array(0.25, np.float32),
}
REPORT = Report(run="1" * 16, round=3, kind="train", base="b" * 64, device="d" * 32, clips=12, loss=1.5)
TENSORS = encode_weights(DELTA)
TRAIN, EVALUATE, REFUSE = b"\x01", b"\x02", b"\x03"

counts = st.integers(0, CLIP_LIMIT)
numbers = st.floats(0, 1e6)
privacy = st.builds(
    PrivacySpent,
    epsilon=st.floats(0, 1e6),
    delta=st.floats(0, 0.5),
    accountant=st.text(max_size=64),
    noise_multiplier=st.floats(0.01, 1e3),
    sampling_rate=st.floats(1e-6, 1),
    steps=counts,
)
reports = st.builds(
    Report,
    run=st.binary(min_size=8, max_size=8).map(bytes.hex),
    round=st.integers(0, 2**32 - 1),
    kind=st.just("train"),
    base=st.binary(min_size=32, max_size=32).map(bytes.hex),
    device=st.binary(min_size=16, max_size=16).map(bytes.hex),
    clips=counts,
    skipped=counts,
    loss=numbers,
    seconds=numbers,
    privacy=st.none() | privacy,
)


def answer_of(kind: bytes, note: str | bytes, tensors: bytes = b"") -> bytes:
    """An answer with any note."""
    data = note.encode() if isinstance(note, str) else note
    return kind + struct.pack(">I", len(data)) + data + tensors


def check(answer: Answer | Refusal) -> None:
    """Whatever was let through keeps every promise a coordinator relies on."""
    if isinstance(answer, Refusal):
        assert len(answer.reason) <= 500
        return
    report = answer.report
    for count in (report.clips, report.skipped, report.correct):
        assert 0 <= count <= CLIP_LIMIT
    assert math.isfinite(report.loss)
    assert math.isfinite(report.seconds)
    assert len(bytes.fromhex(report.device)) == 16
    expected = SCHEMA if report.kind == "train" else {}
    assert {name: value.shape for name, value in answer.delta.items()} == expected
    assert all(np.isfinite(value).all() for value in answer.delta.values())


@given(reports)
def test_a_training_comes_back_as_it_was(report: Report) -> None:
    answer = decode_answer(encode_answer(report, DELTA), SCHEMA)
    assert isinstance(answer, Answer)
    assert answer.report == report
    for name, value in DELTA.items():
        assert answer.delta[name].tobytes() == value.tobytes()


@given(counts, counts)
def test_an_evaluation_carries_no_tensors(clips: int, correct: int) -> None:
    report = REPORT.model_copy(update={"kind": "evaluate", "clips": clips, "correct": correct})
    assert decode_answer(encode_answer(report), SCHEMA) == Answer(report, {})
    with pytest.raises(ProtocolError, match="FA-3004"):
        decode_answer(encode_answer(report, DELTA), SCHEMA)


@given(st.from_regex(r"FA-[0-9]{4}", fullmatch=True), st.text(max_size=500))
def test_a_refusal_comes_back_as_it_was(code: str, reason: str) -> None:
    refusal = Refusal(code=code, reason=reason)
    assert len(refusal.reason) == len(reason)
    assert decode_answer(encode_refusal(refusal), SCHEMA) == refusal


def test_a_training_without_its_delta_is_refused() -> None:
    with pytest.raises(ProtocolError, match="FA-3002"):
        decode_answer(encode_answer(REPORT), SCHEMA)


@cache
def _encoded() -> bytes:
    return encode_answer(REPORT, DELTA)


@pytest.mark.parametrize("bit", range(8))
def test_any_flipped_bit_is_refused_or_harmless(bit: int) -> None:
    """What an answer says is kept from change by the envelope; here, nothing may go past the bounds."""
    refused = 0
    for place in range(len(_encoded())):
        data = bytearray(_encoded())
        data[place] ^= 1 << bit
        try:
            check(decode_answer(bytes(data), SCHEMA))
        except ProtocolError:
            refused += 1
    # Flips in values and hexadecimal digits stay readable; nothing of the structure does.
    assert refused > len(_encoded()) / 2


@given(st.integers(0, 10_000), st.binary(max_size=8))
def test_any_byte_replaced_is_refused_or_harmless(place: int, part: bytes) -> None:
    data = bytearray(_encoded())
    data[place % len(data) : place % len(data) + len(part)] = part
    with suppress(ProtocolError):
        check(decode_answer(bytes(data), SCHEMA))


def test_every_truncation_and_extension_is_refused() -> None:
    for length in range(len(_encoded())):
        with pytest.raises(ProtocolError):
            decode_answer(_encoded()[:length], SCHEMA)
    for more in (b"\0", TENSORS, _encoded()):
        with pytest.raises(ProtocolError, match="FA-3001"):
            decode_answer(_encoded() + more, SCHEMA)


@pytest.mark.parametrize("kind", [b"\x00", EVALUATE, REFUSE, b"\x04", b"\xff"])
def test_an_answer_of_another_kind_than_it_says_is_refused(kind: bytes) -> None:
    with pytest.raises(ProtocolError, match="FA-3004"):
        decode_answer(kind + _encoded()[1:], SCHEMA)


def test_a_note_longer_than_any_is_refused_whatever_follows() -> None:
    for length in (LARGEST_NOTE + 1, 2**31, 2**32 - 1):
        with pytest.raises(ProtocolError, match=r"FA-3004.*too long"):
            decode_answer(TRAIN + struct.pack(">I", length) + bytes(100), SCHEMA)
    with pytest.raises(ProtocolError, match="FA-3004"):
        decode_answer(answer_of(TRAIN, bytes(LARGEST_NOTE)), SCHEMA)


def test_a_refusal_with_something_behind_it_is_refused() -> None:
    data = encode_refusal(Refusal(code="FA-1234", reason="no"))
    for more in (b"\0", TENSORS, data):
        with pytest.raises(ProtocolError, match="FA-3004"):
            decode_answer(data + more, SCHEMA)


@given(st.binary(max_size=300))
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_answer(data, SCHEMA)


@pytest.mark.parametrize(
    "wrong",
    [
        {"clips": CLIP_LIMIT + 1},
        {"clips": -1},
        {"clips": 1.5},
        {"clips": 10**30},
        {"correct": CLIP_LIMIT + 1},
        {"skipped": -1},
        {"loss": -1.0},
        {"loss": 1e7},
        {"seconds": -1.0},
        {"round": -1},
        {"round": 2**32},
        {"kind": "poison"},
        {"device": ""},
        {"device": "d" * 33},
        {"device": "kitchen"},
        {"device": "D" * 32},
        {"run": "1" * 17},
        {"base": "b" * 63},
        {"base": "b" * 64 + "\n"},
        {"extra": 1},
        {"privacy": {"epsilon": -1}},
    ],
)
def test_a_report_out_of_range_is_refused(wrong: dict[str, object]) -> None:
    note = json.dumps(REPORT.model_dump() | wrong, separators=(",", ":"))
    with pytest.raises(ProtocolError, match="FA-3004"):
        decode_answer(answer_of(TRAIN, note, TENSORS), SCHEMA)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"clips":12', '"clips":12,"clips":12'),
        ('"clips":12', '"clips":1000000,"clips":12'),
        ('"clips":12', '"clips":12.0'),
        ('"clips":12', '"clips": 12'),
        ('"clips":12,"skipped":0', '"skipped":0,"clips":12'),
        ('"loss":1.5', '"loss":15e-1'),
        ('"loss":1.5', '"loss":1.50'),
        (',"privacy":null', ""),
        ('"train"', '"tr\\u0061in"'),
    ],
)
def test_another_spelling_of_a_report_is_refused(old: str, new: str) -> None:
    text = canonical(REPORT).decode()
    assert old in text
    with pytest.raises(ProtocolError, match=r"FA-3004.*canonical"):
        decode_answer(answer_of(TRAIN, text.replace(old, new, 1), TENSORS), SCHEMA)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400"])
@pytest.mark.parametrize("field", ["loss", "seconds", "clips"])
def test_numbers_that_are_none_are_refused(field: str, number: str) -> None:
    value = getattr(REPORT, field)
    note = canonical(REPORT).decode().replace(f'"{field}":{value}', f'"{field}":{number}')
    assert number in note
    with pytest.raises(ProtocolError, match="FA-3004"):
        decode_answer(answer_of(TRAIN, note, TENSORS), SCHEMA)


@pytest.mark.parametrize("kind", [TRAIN, EVALUATE, REFUSE])
@pytest.mark.parametrize("note", ["", "{}", "null", "[" * 50_000, '"x"', "{" * 3, b"\xff\xfe"])
def test_a_note_that_is_none_is_refused(kind: bytes, note: str | bytes) -> None:
    with pytest.raises(ProtocolError, match="FA-3004"):
        decode_answer(answer_of(kind, note), {})


@pytest.mark.parametrize("code", ["FA-1", "fa-1234", "FA-12345", "", "FA-1234\n", "FA-١٢٣٤", "../../1"])
def test_a_refusal_needs_a_code(code: str) -> None:
    note = canonical(Refusal.model_construct(code=code, reason="x"))
    with pytest.raises(ProtocolError, match="FA-3004"):
        decode_answer(answer_of(REFUSE, note), {})


@pytest.mark.parametrize("reason", ["two\nlines", "\x1b[2J", "\u202eback", "\x7f", "x" * 501])
def test_a_refusal_that_would_move_the_operators_cursor_is_refused(reason: str) -> None:
    note = json.dumps({"code": "FA-1234", "reason": reason}, separators=(",", ":"), ensure_ascii=False)
    with pytest.raises(ProtocolError, match="FA-3004"):
        decode_answer(answer_of(REFUSE, note), {})
