"""Weights as bytes: what is written comes back to the bit, and nothing else is believed."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.errors import ProtocolError
from common.protocol.tensors import (
    Weights,
    decode_weights,
    encode_weights,
    encoded_size,
    header_of,
    schema_of,
)

names = st.text(min_size=1, max_size=20).filter(lambda name: name != "__metadata__")
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
arrays = hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_dims=4, max_side=4), elements=finite)
weights_values = st.dictionaries(names, arrays, max_size=5)


def raw(header: object, values: bytes = b"") -> bytes:
    """safetensors bytes with any header, padded as it must be."""
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + values


def entry(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


ONES = np.ones(2, np.float32).tobytes()
ONE: Weights = {"a": np.ones(2, np.float32)}
TWO: Weights = {"a": np.ones(2, np.float32), "b": np.zeros((1, 2), np.float32)}
ENCODED = encode_weights(TWO)


@given(weights_values)
def test_weights_come_back_to_the_bit_in_the_order_of_the_schema(weights: Weights) -> None:
    schema = schema_of(weights)
    for data in (encode_weights(weights), memoryview(encode_weights(weights))):
        assert len(data) == encoded_size(schema)
        back = decode_weights(data, schema)
        assert list(back) == list(weights)
        for name, value in weights.items():
            assert back[name].shape == value.shape
            assert back[name].tobytes() == value.tobytes()
        assert not any(value.flags.writeable for value in back.values())


@given(weights_values)
def test_the_bytes_are_those_of_the_safetensors_library(weights: Weights) -> None:
    assert encode_weights(weights) == safetensors.numpy.save(weights)


@given(weights_values.filter(bool))
def test_the_safetensors_library_reads_them(weights: Weights) -> None:
    back = safetensors.numpy.load(encode_weights(weights))
    assert {name: value.tobytes() for name, value in back.items()} == {
        name: value.tobytes() for name, value in weights.items()
    }


@given(weights_values, st.randoms())
def test_the_order_they_are_given_in_does_not_matter(weights: Weights, random: object) -> None:
    shuffled = list(weights.items())
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert encode_weights(dict(shuffled)) == encode_weights(weights)


def test_layout_in_memory_does_not_matter() -> None:
    value = np.arange(6, dtype=np.float32).reshape(2, 3)
    for other in (np.asfortranarray(value), value.astype(">f4"), np.repeat(value, 2, axis=1)[:, ::2]):
        assert encode_weights({"a": other}) == encode_weights({"a": value})


def test_the_place_in_memory_does_not_matter() -> None:
    data = bytes(3) + ENCODED
    back = decode_weights(memoryview(data)[3:], schema_of(TWO))
    assert all(back[name].tobytes() == value.tobytes() for name, value in TWO.items())


@given(weights_values.filter(bool), st.data())
def test_a_schema_that_differs_in_anything_is_refused(weights: Weights, data: st.DataObject) -> None:
    schema = schema_of(weights)
    name = data.draw(st.sampled_from(sorted(schema)))
    others = {key: shape for key, shape in schema.items() if key != name}
    wrong = data.draw(
        st.sampled_from(
            [
                others,
                schema | {name + "'": (1,)},
                schema | {name: (*schema[name], 1, 7)},
                schema | {name: (77,)},
            ]
        )
    )
    with pytest.raises(ProtocolError, match="FA-3002"):
        decode_weights(encode_weights(weights), wrong)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 3, 5])
def test_one_value_that_is_not_finite_is_refused(bad: float, place: int) -> None:
    value = np.zeros((2, 3), np.float32)
    value.flat[place] = bad
    weights = {"fine": np.ones(2, np.float32), "bad": value}
    with pytest.raises(ProtocolError, match="FA-3003"):
        decode_weights(encode_weights(weights), schema_of(weights))


@given(st.integers(0, 2**32 - 1))
def test_any_pattern_of_bits_is_a_finite_number_or_refused(bits: int) -> None:
    data = raw({"a": entry(0, 4, [1])}, struct.pack("<I", bits))
    if np.isfinite(struct.unpack("<f", struct.pack("<I", bits))[0]):
        assert decode_weights(data, {"a": (1,)})["a"].tobytes() == struct.pack("<I", bits)
    else:
        with pytest.raises(ProtocolError, match="FA-3003"):
            decode_weights(data, {"a": (1,)})


def test_a_flip_of_any_bit_of_the_header_is_refused() -> None:
    header = len(header_of(schema_of(TWO)))
    for bit in range(8):
        for place in range(header):
            data = bytearray(ENCODED)
            data[place] ^= 1 << bit
            with pytest.raises(ProtocolError, match="FA-3002"):
                decode_weights(bytes(data), schema_of(TWO))


def test_every_truncation_and_extension_is_refused() -> None:
    for length in range(len(ENCODED)):
        with pytest.raises(ProtocolError, match=r"FA-300[12]"):
            decode_weights(ENCODED[:length], schema_of(TWO))
    for more in (b"\0", bytes(4), ENCODED):
        with pytest.raises(ProtocolError, match="FA-3001"):
            decode_weights(ENCODED + more, schema_of(TWO))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x00" * 7, id="shorter than a length"),
        pytest.param(b"\x00" * 8, id="empty header"),
        pytest.param(b"PK\x03\x04" + b"\x00" * 100, id="a zip"),
        pytest.param(b"\x80\x04\x95" + b"." * 100, id="a pickle"),
        pytest.param(b"\xff" * 64, id="header of 2**64 bytes"),
        pytest.param(raw(b"[" * 200_000), id="nested lists"),
        pytest.param(raw({"__metadata__": {}}), id="metadata"),
        pytest.param(raw({"b": entry(0, 8, [2])}, ONES), id="another name"),
        pytest.param(raw({"a": entry(0, 8, [2], "I32")}, ONES), id="integers"),
        pytest.param(raw({"a": entry(0, 4, [2], "F16")}, ONES[:4]), id="half floats"),
        pytest.param(raw({"a": entry(0, 16, [2], "F64")}, ONES * 2), id="doubles"),
        pytest.param(raw({"a": entry(0, 8, [1, 2])}, ONES), id="one dimension more"),
        pytest.param(raw({"a": entry(0, 8, [])}, ONES), id="no dimension"),
        pytest.param(raw({"a": entry(8, 16, [2])}, ONES), id="after the end"),
        pytest.param(raw({"a": entry(4, 12, [2])}, ONES * 2), id="hidden bytes around"),
        pytest.param(raw({"a": entry(0, 8, [2]), "__metadata__": {"k": "v"}}, ONES), id="with metadata"),
        pytest.param(raw(b'{"a":1,' + raw({"a": entry(0, 8, [2])})[9:], ONES), id="a name twice"),
        pytest.param(raw(json.dumps({"a": entry(0, 8, [2])}).encode(), ONES), id="with spaces"),
        pytest.param(raw(raw({"a": entry(0, 8, [2])})[8:] + b" " * 8, ONES), id="more padding"),
        pytest.param(raw({"a": dict(reversed(entry(0, 8, [2]).items()))}, ONES), id="keys in another order"),
        pytest.param(raw({"\u0061": entry(0, 8, [2])}, ONES).replace(b'"a"', b'"\\u0061"'), id="an escape"),
    ],
)
def test_anything_but_the_one_encoding_is_refused(data: bytes) -> None:
    assert decode_weights(raw({"a": entry(0, 8, [2])}, ONES), {"a": (2,)}).keys() == {"a"}
    with pytest.raises(ProtocolError, match="FA-3002"):
        decode_weights(data, {"a": (2,)})


def test_tensors_in_another_order_are_refused() -> None:
    other = raw({"b": entry(0, 8, [1, 2]), "a": entry(8, 16, [2])}, bytes(8) + ONES)
    assert set(safetensors.numpy.load(other)) == {"a", "b"}
    with pytest.raises(ProtocolError, match="FA-3002"):
        decode_weights(other, schema_of(TWO))


@given(st.binary(max_size=400))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_weights(data, schema_of(ONE))
