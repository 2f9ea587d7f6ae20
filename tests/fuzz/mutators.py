"""Ways to spoil a message. Each takes a good one, others of its sort, and the places of its fields."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

Mutator = Callable[[random.Random, bytearray, Sequence[bytes], Sequence[tuple[int, int]]], None]

EXTREMES = (0, 1, 0x7F, 0x80, 0xFF)
NUMBERS = (
    *(b"-1", b"0", b"1.0", b"1e1", b"01", b"+1", b"9" * 30, b"9" * 5000),
    *(b"NaN", b"Infinity", b"1e999", b"null", b'"1"', b"true"),
)
PIECES = (
    *(b"\0", b" ", b"\n", b"\r\n", b"=", b"\xff", b"\xed\xa0\x80", b"\\u0000", b"\\ud800"),
    *(b"{}", b"[" * 3000, b'{"a":' * 500, b"-----BEGIN ", b"FAS1", b"FAE1", b"fa1_"),
)

_MEMBER = re.compile(rb'"[a-z_]{1,20}":("[^"]{0,4000}"|-?[0-9.e+-]{1,30}|true|false|null)')
_NUMBER = re.compile(rb"-?\d{1,30}(?:\.\d+)?")
_BETWEEN = re.compile(rb'[,:{}\[\]](?=["\d{\[])')


def mutate(rng: random.Random, corpus: Sequence[bytes], fields: Sequence[tuple[int, int]]) -> bytes:
    """The first of `corpus` with one to three changes."""
    data = bytearray(corpus[0])
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        rng.choice(MUTATORS)(rng, data, corpus, fields)
    return bytes(data)


def _place(rng: random.Random, data: bytearray) -> int:
    return rng.randrange(len(data)) if data else 0


def _slice(rng: random.Random, data: bytes | bytearray) -> tuple[int, int]:
    begin = rng.randrange(len(data) + 1)
    return begin, min(len(data), begin + rng.choice((1, 2, 4, 8, 16, 32, 64, len(data))))


def flip_bit(rng: random.Random, data: bytearray, *_: object) -> None:
    if data:
        data[_place(rng, data)] ^= 1 << rng.randrange(8)


def set_byte(rng: random.Random, data: bytearray, *_: object) -> None:
    if data:
        data[_place(rng, data)] = rng.choice(EXTREMES) if rng.random() < 0.5 else rng.randrange(256)


def truncate(rng: random.Random, data: bytearray, *_: object) -> None:
    del data[rng.randrange(len(data) + 1) :]


def cut_out(rng: random.Random, data: bytearray, *_: object) -> None:
    begin, end = _slice(rng, data)
    del data[begin:end]


def extend(rng: random.Random, data: bytearray, *_: object) -> None:
    data += (
        rng.randbytes(rng.choice((1, 4, 64))) if rng.random() < 0.5 else bytes(rng.choice((1, 4, 64, 70_000)))
    )


def insert(rng: random.Random, data: bytearray, *_: object) -> None:
    place = rng.randrange(len(data) + 1)
    data[place:place] = rng.choice(PIECES) if rng.random() < 0.7 else rng.randbytes(rng.choice((1, 4, 16)))


def duplicate(rng: random.Random, data: bytearray, *_: object) -> None:
    begin, end = _slice(rng, data)
    data[end:end] = data[begin:end]


def exchange(rng: random.Random, data: bytearray, *_: object) -> None:
    """Two slices change places."""
    size = rng.choice((1, 2, 4, 8, 16, 32))
    if len(data) >= 2 * size:
        one, other = sorted(rng.sample(range(0, len(data) - size + 1), 2))
        first, second = data[one : one + size], data[other : other + size]
        data[other : other + size], data[one : one + size] = first, second


def splice(rng: random.Random, data: bytearray, corpus: Sequence[bytes], *_: object) -> None:
    """The head of one, the tail of another."""
    other = rng.choice(corpus)
    place = rng.randrange(len(data) + 1)
    at = place if rng.random() < 0.7 else rng.randrange(len(other) + 1)
    data[place:] = other[at:]


def transplant(rng: random.Random, data: bytearray, corpus: Sequence[bytes], *_: object) -> None:
    """A slice of another at the same place."""
    begin, end = _slice(rng, data)
    data[begin:end] = rng.choice(corpus)[begin:end]


def take_field(
    rng: random.Random, data: bytearray, corpus: Sequence[bytes], fields: Sequence[tuple[int, int]]
) -> None:
    """A whole field of another."""
    if fields:
        begin, end = rng.choice(fields)
        data[begin:end] = rng.choice(corpus)[begin:end]


def extreme_field(
    rng: random.Random, data: bytearray, _: Sequence[bytes], fields: Sequence[tuple[int, int]]
) -> None:
    """A field, or any four bytes, read as a number: the smallest, the largest, one more, one less."""
    begin, end = rng.choice(fields) if fields and rng.random() < 0.8 else (p := _place(rng, data), p + 4)
    size = len(data[begin:end])
    value, top = int.from_bytes(data[begin:end], "big"), 1 << 8 * size
    new = rng.choice((0, 1, top - 1, top >> 1, value + 1, value - 1, value << 8, len(data))) % top
    data[begin:end] = new.to_bytes(size, "big")


def repeat_member(rng: random.Random, data: bytearray, *_: object) -> None:
    """A key of JSON twice, with the same value or another's."""
    if members := list(_MEMBER.finditer(data)):
        member = rng.choice(members)
        other = rng.choice(members)
        key = member[0].split(b":")[0]
        again = member[0] if rng.random() < 0.5 else key + b":" + other[1]
        place = rng.choice(members).start()
        data[place:place] = again + b","


def move_member(rng: random.Random, data: bytearray, *_: object) -> None:
    """Two keys of JSON change places with their values."""
    members = list(_MEMBER.finditer(data))
    if len(members) > 1:
        one, other = sorted(rng.sample(members, 2), key=re.Match.start)
        first, second = one[0], other[0]
        data[other.start() : other.end()] = first
        data[one.start() : one.end()] = second


def respell_number(rng: random.Random, data: bytearray, *_: object) -> None:
    if numbers := list(_NUMBER.finditer(data)):
        number = rng.choice(numbers)
        new = rng.choice((rng.choice(NUMBERS), number[0] + b".0", number[0] + b"e0", b"0" + number[0]))
        data[number.start() : number.end()] = new


def insert_space(rng: random.Random, data: bytearray, *_: object) -> None:
    if places := list(_BETWEEN.finditer(data)):
        place = rng.choice(places).end()
        data[place:place] = rng.choice((b" ", b"\n", b"\t", b"\r"))


def change_case(rng: random.Random, data: bytearray, *_: object) -> None:
    begin, end = _slice(rng, data)
    data[begin:end] = data[begin:end].swapcase()


def escape(rng: random.Random, data: bytearray, *_: object) -> None:
    """A character as the escape that JSON allows for it."""
    if data:
        place = _place(rng, data)
        data[place : place + 1] = b"\\u%04x" % data[place]


MUTATORS: tuple[Mutator, ...] = (
    flip_bit, flip_bit, set_byte, truncate, cut_out, extend, insert, duplicate, exchange, splice, transplant,
    take_field, extreme_field, repeat_member, move_member, respell_number, insert_space, change_case, escape,
)  # fmt: skip
