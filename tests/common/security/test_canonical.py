"""One encoding: what is read is, byte for byte, what would be written."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AwareDatetime

from common.security.canonical import Printable, canonical, read_canonical
from common.settings import Settings


class Inner(Settings):
    flag: bool
    word: str | None


class Outer(Settings):
    count: int
    share: float
    when: AwareDatetime
    inner: tuple[Inner, ...]
    said: Printable = ""


values = st.builds(
    Outer,
    count=st.integers(-(2**53), 2**53),
    share=st.floats(allow_nan=False, allow_infinity=False),
    when=st.datetimes(timezones=st.just(UTC)),
    inner=st.lists(st.builds(Inner, flag=st.booleans(), word=st.none() | st.text()), max_size=3).map(tuple),
    said=st.text(),
)
VALUE = Outer(
    count=12,
    share=0.5,
    when=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    inner=(Inner(flag=True, word='é/"'),),
    said="hello",
)
TEXT = canonical(VALUE).decode()


def test_the_encoding_is_what_the_protocol_says() -> None:
    assert TEXT == (
        '{"count":12,"share":0.5,"when":"2026-01-02T03:04:05Z",'
        '"inner":[{"flag":true,"word":"é/\\""}],"said":"hello"}'
    )


@given(values)
def test_every_value_comes_back_as_it_was(value: Outer) -> None:
    back = read_canonical(Outer, canonical(value))
    assert isinstance(back, Outer)
    assert back == value
    assert math.copysign(1, back.share) == math.copysign(1, value.share)


@pytest.mark.parametrize(
    ("number", "text"),
    [(600.0, "600.0"), (1e-5, "1e-05"), (0.0001, "0.0001"), (1e16, "1e+16"), (1e15, "1000000000000000.0"),
     (-0.0, "-0.0"), (5e-324, "5e-324"), (1.5e300, "1.5e+300"), (0.1, "0.1")],
)  # fmt: skip
def test_numbers_are_spelled_as_python_spells_them(number: float, text: str) -> None:
    assert f'"share":{text},'.encode() in canonical(VALUE.model_copy(update={"share": number}))


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_is_never_written(number: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical(VALUE.model_copy(update={"share": number}))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"count":12', '"count":12,"count":12'),
        ('"count":12', '"count":13,"count":12'),
        ('"count":12', '"count": 12'),
        ('"count":12', '"count":12.0'),
        ('"count":12', '"count":1.2e1'),
        ('"count":12', '"count":"12"'),
        ('"count":12', '"count":012'),
        ('"count":12', '"count":+12'),
        ('"count":12', '"count":-0'),
        ('"count":12,"share":0.5', '"share":0.5,"count":12'),
        ('"count":12', '"c\\u006funt":12'),
        ('"share":0.5', '"share":0.50'),
        ('"share":0.5', '"share":5e-1'),
        ('"share":0.5', '"share":.5'),
        ('"share":0.5', '"share":1'),
        ('"share":0.5', '"share":NaN'),
        ('"share":0.5', '"share":-Infinity'),
        ('"share":0.5', '"share":1e999'),
        ('"share":0.5', '"share":true'),
        ("05Z", "05+00:00"),
        ("05Z", "05.000Z"),
        ("05Z", "05z"),
        ("05Z", "05"),
        ("T03", " 03"),
        ('"flag":true', '"flag":1'),
        ('"flag":true', '"flag":"true"'),
        ("é", "\\u00e9"),
        ("/", "\\/"),
        ("hello", "h\\u0065llo"),
        (',"said":"hello"', ""),
        ('"said"', '"unknown":1,"said"'),
        ('"hello"', "null"),
        ('"hello"', '"\\ud800"'),
        ('"hello"', '"a\\nb"'),
        ('"hello"', '"\u202eolleh"'),
        ('"hello"', '"\\u001b[2J"'),
    ],
)
def test_any_other_spelling_is_refused(old: str, new: str) -> None:
    assert old in TEXT
    assert isinstance(read_canonical(Outer, TEXT.replace(old, new, 1).encode()), str)


@pytest.mark.parametrize("around", [" {}", "{} ", "{}\n", "\ufeff{}", "{}{}", "[{}]", "{}\0", "{},"])
def test_nothing_may_stand_around_it(around: str) -> None:
    data = around.replace("{}", TEXT).encode()
    assert data != TEXT.encode()
    assert isinstance(read_canonical(Outer, data), str)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"[" * 1_000_000, id="deep lists"),
        pytest.param(b'{"inner":' * 200_000, id="deep objects"),
        pytest.param(TEXT.replace("12", "9" * 5_000, 1).encode(), id="a number of 5,000 digits"),
        pytest.param(TEXT.replace("0.5", "0." + "5" * 100_000, 1).encode(), id="a number of 100,000 digits"),
        pytest.param(TEXT.replace("hello", "\xff", 1).encode("latin-1", "replace"), id="not UTF-8"),
        pytest.param(TEXT.encode("utf-16"), id="UTF-16"),
        pytest.param(b"null", id="null"),
        pytest.param(b"\xff" * 100, id="noise"),
        pytest.param(("{" + ",".join(f'"k{n}":1' for n in range(50_000)) + "}").encode(), id="many keys"),
    ],
)
def test_hostile_text_is_refused_in_a_few_words(data: bytes) -> None:
    fault = read_canonical(Outer, data)
    assert isinstance(fault, str)
    assert len(fault) < 400


def test_what_is_said_about_a_fault_cannot_move_a_terminals_cursor() -> None:
    key = json.dumps("\x1b[2J\u202e\n")
    fault = read_canonical(Outer, TEXT.replace('"said"', f'{key}:1,"said"').encode())
    assert isinstance(fault, str)
    assert not {"\x1b", "\u202e", "\n"} & set(fault)


@given(st.binary(max_size=300))
def test_garbage_is_refused(data: bytes) -> None:
    assert isinstance(read_canonical(Outer, data), str)


@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=4))
def test_whatever_is_accepted_is_its_own_encoding(place: int, part: bytes) -> None:
    data = bytearray(TEXT.encode())
    data[place % len(data) : place % len(data) + len(part)] = part
    value = read_canonical(Outer, bytes(data))
    assert isinstance(value, str) or json.loads(bytes(data)) == json.loads(canonical(value))


def test_text_for_people_holds_no_control_characters() -> None:
    value = VALUE.model_copy(update={})
    assert Outer.model_validate(value.model_dump() | {"said": "a\r\nb\x1b[2J\u2028\x85"}).said == "a  b [2J  "


@given(st.text())
def test_text_for_people_keeps_everything_else(text: str) -> None:
    once = Outer.model_validate(VALUE.model_dump() | {"said": text}).said
    assert len(once) == len(text)
    assert Outer.model_validate(VALUE.model_dump() | {"said": once}).said == once
    assert all(b in (a, " ") for a, b in zip(text, once, strict=True))
