"""Weights as bytes and back: safetensors, checked against a schema before any value is used."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Annotated, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import Field

from common.errors import ProtocolError

Weights: TypeAlias = dict[str, npt.NDArray[np.float32]]
"""Parameters by name, in the model's own order."""

Row: TypeAlias = npt.NDArray[np.float32]
"""All values of a model, flat, tensor after tensor in the order of their names."""

BLOCK = 1 << 14
"""Values handled at once."""

Shape: TypeAlias = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(max_length=8)]

Schema: TypeAlias = dict[str, Shape]
"""Shape of every tensor by name; all are float32."""


def schema_of(weights: Mapping[str, npt.NDArray[np.float32]]) -> Schema:
    """The shapes of `weights`."""
    return {name: tuple(value.shape) for name, value in weights.items()}


def encode_weights(weights: Weights) -> bytes:
    """`weights` as safetensors, in the one encoding that `decode_weights` accepts."""
    contiguous = (np.asarray(weights[name], np.float32, order="C").reshape(-1) for name in sorted(weights))
    return b"".join((header_of(schema_of(weights)), *(value.data for value in contiguous)))


def header_of(schema: Schema) -> bytes:
    """The header that tensors of this schema have: safetensors with names in order and no metadata.

    Format: 8 bytes little-endian length, JSON padded with spaces to a multiple of 8
    (https://github.com/huggingface/safetensors).
    """
    return _header_and_size(tuple(sorted(schema.items())))[0]


def encoded_size(schema: Schema) -> int:
    """Bytes of tensors of this schema when encoded."""
    return _header_and_size(tuple(sorted(schema.items())))[1]


@lru_cache(maxsize=16)
def _header_and_size(shapes: tuple[tuple[str, Shape], ...]) -> tuple[bytes, int]:
    """Both, kept: a coordinator compares every update of a round with them."""
    entries, begin = {}, 0
    for name, shape in shapes:
        end = begin + 4 * math.prod(shape)
        entries[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, 8 + len(text) + begin


def decode_weights(data: bytes | memoryview, schema: Schema) -> Weights:
    """Read-only float32 views into `data`, exactly as `schema` says.

    Raises:
        ProtocolError: FA-3001..FA-3003, as `decode_row`.
    """
    return split_row(decode_row(data, schema)[0], schema)


def decode_row(data: bytes | memoryview, schema: Schema) -> tuple[Row, float]:
    """All values of the tensors in one row, a read-only view into `data`, and the row's `norm`.

    No header is interpreted: it must be the one the schema has. Nothing is copied, so a coordinator holds one
    update and no more while it folds it in.

    Raises:
        ProtocolError: FA-3001 cut short or with something behind; FA-3002 other names, shapes, types or
            spelling than the schema's; FA-3003 a value that is not finite.
    """
    header, size = _header_and_size(tuple(sorted(schema.items())))
    if bytes(data[: len(header)]) != header:
        raise ProtocolError("FA-3002", "The tensors are not exactly those of the model.", _ASK_UPDATE)
    if len(data) != size:
        raise ProtocolError("FA-3001", "The tensors are cut short, or more than they should be.", _SEND_AGAIN)
    # A header is a multiple of 8 long, but what it is in may begin anywhere.
    row = np.frombuffer(data, np.dtype("<f4"), offset=len(header))
    length = norm(row)
    # Only values that are finite have a finite norm, and most that are.
    if not math.isfinite(length) and not all(np.isfinite(row[part]).all() for part in blocks(row.size)):
        raise ProtocolError("FA-3003", "The tensors hold NaN or infinity.", _LOWER_RATE)
    return row, length


def norm(row: Row) -> float:
    """The L2 norm; infinite where its square is beyond single precision, NaN with a NaN in the row."""
    total = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for part in blocks(row.size):
            # A row may begin anywhere in a message; a copy lies straight, and is multiplied faster.
            values = row[part].copy()
            total += float(np.dot(values, values))
    return math.sqrt(total)


def blocks(count: int) -> Iterator[slice]:
    """`count` values in parts whose intermediate results stay in the cache and out of the memory bill."""
    return (slice(start, start + BLOCK) for start in range(0, count, BLOCK))


def split_row(row: Row, schema: Schema) -> Weights:
    """Views into `row` by name, in the order of `schema`."""
    weights: Weights = {}
    begin = 0
    for name in sorted(schema):
        end = begin + math.prod(schema[name])
        weights[name] = row[begin:end].reshape(schema[name])
        begin = end
    return {name: weights[name] for name in schema}


_SEND_AGAIN = "Send the message again; if it stays, update both sides to the same version."
_ASK_UPDATE = "Update the device and the coordinator to the same version."
_LOWER_RATE = "The device's training diverged: lower the learning rate in the recipe."
