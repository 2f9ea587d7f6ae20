"""Answers: every value survives the trip; no bytes do more than be refused."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ProtocolError
from common.protocol.answer import (
    CLIP_LIMIT,
    Answer,
    PrivacySpent,
    Refusal,
    Report,
    decode_answer,
    encode_answer,
    encode_refusal,
)
from common.protocol.tensors import Weights, encode_weights

SCHEMA = {"layer.weight": (2, 3), "bias": (3,), "scale": ()}
DELTA: Weights = {
    "layer.weight": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3),
    "bias": np.array([1e-3, -2.5, 0], np.float32),
    "scale": np.array(0.25, np.float32),
}
REPORT = Report(run="r", round=3, kind="train", base="b" * 64, device="kitchen", clips=12, loss=1.5)

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
    run=st.text(max_size=64),
    round=st.integers(0, 2**40),
    kind=st.just("train"),
    base=st.text(max_size=64),
    device=st.text("abcÄß09_.-", min_size=1, max_size=64),
    clips=counts,
    skipped=counts,
    loss=numbers,
    seconds=numbers,
    privacy=st.none() | privacy,
)


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
    assert 1 <= len(report.device) <= 64
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
    with pytest.raises(ProtocolError, match="FA-3002"):
        decode_answer(encode_answer(report, DELTA), SCHEMA)


@given(st.from_regex(r"FA-[0-9]{4}", fullmatch=True), st.text(max_size=500))
def test_a_refusal_comes_back_as_it_was(code: str, reason: str) -> None:
    refusal = Refusal(code=code, reason=reason)
    assert decode_answer(encode_refusal(refusal), SCHEMA) == refusal


def test_a_training_without_its_delta_is_refused() -> None:
    with pytest.raises(ProtocolError, match="FA-3002"):
        decode_answer(encode_answer(REPORT), SCHEMA)


@cache
def _encoded() -> bytes:
    return encode_answer(REPORT, DELTA)


@pytest.mark.parametrize("bit", range(8))
def test_any_flipped_bit_is_refused_or_harmless(bit: int) -> None:
    refused = 0
    for place in range(len(_encoded())):
        data = bytearray(_encoded())
        data[place] ^= 1 << bit
        try:
            check(decode_answer(bytes(data), SCHEMA))
        except ProtocolError:
            refused += 1
    # Flips in values, digits and names stay readable; the structure of the header does not.
    assert refused > len(_encoded()) / 4


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
    with pytest.raises(ProtocolError, match="FA-3001"):
        decode_answer(_encoded() + b"\0", SCHEMA)


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
        {"kind": "poison"},
        {"device": ""},
        {"device": "x" * 65},
        {"device": "a\x1b[2Jb"},
        {"device": "two words"},
        {"run": "x" * 65},
        {"base": "x" * 65},
        {"extra": 1},
        {"privacy": {"epsilon": -1}},
    ],
)
def test_a_report_out_of_range_is_refused(wrong: dict[str, object]) -> None:
    note = json.dumps(REPORT.model_dump() | wrong)
    with pytest.raises(ProtocolError, match="FA-3004"):
        decode_answer(encode_weights(DELTA, note), SCHEMA)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400"])
@pytest.mark.parametrize("field", ["loss", "seconds", "clips"])
def test_numbers_that_are_none_are_refused(field: str, number: str) -> None:
    value = getattr(REPORT, field)
    note = REPORT.model_dump_json().replace(f'"{field}":{value}', f'"{field}":{number}')
    assert number in note
    with pytest.raises(ProtocolError, match="FA-3004"):
        decode_answer(encode_weights(DELTA, note), SCHEMA)


@pytest.mark.parametrize("note", ["", "{}", "null", "[" * 50_000, '"x"', "{" * 3])
def test_a_note_that_is_no_report_is_refused(note: str) -> None:
    with pytest.raises(ProtocolError, match="FA-3004"):
        decode_answer(encode_weights({}, note), {})


@pytest.mark.parametrize("code", ["FA-1", "fa-1234", "FA-12345", "", "FA-1234\n"])
def test_a_refusal_needs_a_code(code: str) -> None:
    note = Refusal.model_construct(code=code, reason="x").model_dump_json()
    with pytest.raises(ProtocolError, match="FA-3004"):
        decode_answer(encode_weights({}, note), {})
