"""Weights as bytes: what is written comes back to the bit, and nothing else is believed."""

from __future__ import annotations

import json
import struct
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.errors import ProtocolError
from common.protocol.tensors import (
    HEADER_LIMIT,
    Weights,
    decode_weights,
    encode_weights,
    read_note,
    schema_of,
)

names = st.text(min_size=1, max_size=20).filter(lambda name: name != "__metadata__")
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
arrays = hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_dims=4, max_side=4), elements=finite)
weights_values = st.dictionaries(names, arrays, max_size=5)


def raw(header: object, values: bytes = b"") -> bytes:
    """safetensors bytes with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + values


def entry(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


ONES = np.ones(2, np.float32).tobytes()
TWO_OF_TWO = {"a": (2,), "b": (2,)}


@given(weights_values, st.text())
def test_weights_and_note_come_back_to_the_bit(weights: Weights, note: str) -> None:
    data = encode_weights(weights, note)
    back = decode_weights(data, schema_of(weights))
    assert read_note(data) == note
    assert set(back) == set(weights)
    for name, value in weights.items():
        assert back[name].shape == value.shape
        assert back[name].tobytes() == value.tobytes()


@given(weights_values)
def test_a_memoryview_serves_as_well_as_bytes_and_cannot_be_written_through(weights: Weights) -> None:
    data = encode_weights(weights)
    back = decode_weights(memoryview(data), schema_of(weights))
    assert all(back[name].tobytes() == value.tobytes() for name, value in weights.items())
    assert not any(value.flags.writeable for value in back.values())


def test_layout_in_memory_does_not_matter() -> None:
    value = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert encode_weights({"a": np.asfortranarray(value)}) == encode_weights({"a": value})


@given(weights_values.filter(bool), st.data())
def test_a_schema_that_differs_in_anything_is_refused(weights: Weights, data: st.DataObject) -> None:
    schema = schema_of(weights)
    name = data.draw(st.sampled_from(sorted(schema)))
    others = {key: shape for key, shape in schema.items() if key != name}
    wrong = data.draw(
        st.sampled_from([others, schema | {name + "'": (1,)}, schema | {name: (*schema[name], 1, 7)}])
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


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x00" * 7, id="shorter than a length"),
        pytest.param(b"\x00" * 8, id="empty header"),
        pytest.param(b"PK\x03\x04" + b"\x00" * 100, id="a zip"),
        pytest.param(b"\x80\x04\x95" + b"." * 100, id="a pickle"),
        pytest.param(b"\xff" * 64, id="header of 2**64 bytes"),
        pytest.param(raw(b"[]"), id="header is a list"),
        pytest.param(raw(b"3"), id="header is a number"),
        pytest.param(raw(b"{"), id="header is half"),
        pytest.param(raw(b"\xff\xfe\xfd"), id="header is not text"),
        pytest.param(raw(b"[" * 200_000), id="nested lists"),
        pytest.param(raw(b'{"a":' * 100_000), id="nested objects"),
        pytest.param(raw(b'{"a":' + b"1" * 10_000 + b"}"), id="a number of 10,000 digits"),
        pytest.param(raw(b'{"a":1,"a":1}'), id="duplicate tensor"),
        pytest.param(raw(b'{"__metadata__":{"note":"x","note":"y"}}'), id="duplicate note"),
        pytest.param(raw(b" " * (HEADER_LIMIT + 1) + b"{}"), id="header over the limit"),
    ],
)
def test_what_is_not_safetensors_is_refused(data: bytes) -> None:
    for read in (read_note, lambda data: decode_weights(data, {})):
        with pytest.raises(ProtocolError, match="FA-3001"):
            read(data)


@pytest.mark.parametrize(
    ("header", "values", "schema"),
    [
        pytest.param({"a": entry(0, 8, [2], "I32")}, ONES, {"a": (2,)}, id="integers"),
        pytest.param({"a": entry(0, 4, [2], "F16")}, ONES[:4], {"a": (2,)}, id="half floats"),
        pytest.param({"a": entry(0, 16, [2], "F64")}, ONES * 2, {"a": (2,)}, id="doubles"),
        pytest.param({"a": entry(0, 8, [1, 2])}, ONES, {"a": (2,)}, id="one dimension more"),
        pytest.param({"a": entry(0, 8, [])}, ONES, {"a": (2,)}, id="no dimension"),
        pytest.param({"a": entry(0, 4, [2])}, ONES, {"a": (2,)}, id="fewer bytes than its shape"),
        pytest.param({"a": entry(8, 0, [2])}, ONES, {"a": (2,)}, id="backwards"),
        pytest.param({"a": entry(-8, 0, [2])}, ONES, {"a": (2,)}, id="before the beginning"),
        pytest.param({"a": entry(8, 16, [2])}, ONES, {"a": (2,)}, id="after the end"),
        pytest.param({"a": entry(2**70, 2**70 + 8, [2])}, ONES, {"a": (2,)}, id="far after the end"),
        pytest.param({"a": entry(0, 8, [2])}, ONES + b"x", {"a": (2,)}, id="hidden bytes at the end"),
        pytest.param({"a": entry(4, 12, [2])}, ONES + ONES, {"a": (2,)}, id="hidden bytes around"),
        pytest.param(
            {"a": entry(0, 8, [2]), "b": entry(0, 8, [2])}, ONES + ONES, TWO_OF_TWO, id="same bytes twice"
        ),
        pytest.param(
            {"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, ONES + ONES, TWO_OF_TWO, id="overlapping"
        ),
        pytest.param({"a": [1, 2]}, ONES, {"a": (2,)}, id="entry is a list"),
        pytest.param({"a": None}, ONES, {"a": (2,)}, id="entry is null"),
        pytest.param({"a": {"dtype": "F32", "shape": [2]}}, ONES, {"a": (2,)}, id="no offsets"),
        pytest.param(
            {"a": entry(0, 8, [2]) | {"data_offsets": [0.0, 8.0]}}, ONES, {"a": (2,)}, id="offsets are floats"
        ),
        pytest.param(
            {"a": entry(0, 8, [2]) | {"data_offsets": ["0", "8"]}}, ONES, {"a": (2,)}, id="offsets are text"
        ),
    ],
)
def test_a_header_that_does_not_describe_its_values_is_refused(
    header: object, values: bytes, schema: dict[str, tuple[int, ...]]
) -> None:
    with pytest.raises(ProtocolError, match=r"FA-300[12]"):
        decode_weights(raw(header, values), schema)


@pytest.mark.parametrize("metadata", [None, 3, [], {"note": 3}, {"note": None}, {"other": "x"}])
def test_a_missing_note_reads_as_empty(metadata: object) -> None:
    assert read_note(raw({"__metadata__": metadata})) == ""


@given(st.binary(max_size=400))
def test_any_bytes_are_refused_or_empty(data: bytes) -> None:
    with suppress(ProtocolError):
        assert decode_weights(data, {}) == {}
