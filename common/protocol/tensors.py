"""Weights as bytes and back: safetensors, checked against a schema before any value is used."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import Field
from safetensors import SafetensorError
from safetensors.numpy import save

from common.errors import ProtocolError

Weights: TypeAlias = dict[str, npt.NDArray[np.float32]]
"""Parameters by name, in the model's own order."""

Shape: TypeAlias = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(max_length=8)]

Schema: TypeAlias = dict[str, Shape]
"""Shape of every tensor by name; all are float32."""

HEADER_LIMIT = 1 << 20


def schema_of(weights: Mapping[str, npt.NDArray[np.float32]]) -> Schema:
    """The shapes of `weights`."""
    return {name: tuple(value.shape) for name, value in weights.items()}


def encode_weights(weights: Weights, note: str = "") -> bytes:
    """`weights` as safetensors; `note` (text, usually JSON) travels in the header."""
    contiguous = {name: np.asarray(value, np.float32, order="C") for name, value in weights.items()}
    return save(contiguous, metadata={"note": note} if note else None)


def read_note(data: bytes | memoryview) -> str:
    """The note in the header of `data`, or "".

    Raises:
        ProtocolError: FA-3001 `data` is not safetensors.
    """
    metadata = _header(data)[0].get("__metadata__", {})
    note = metadata.get("note", "") if isinstance(metadata, dict) else ""
    return note if isinstance(note, str) else ""


def decode_weights(data: bytes | memoryview, schema: Schema) -> Weights:
    """Read-only float32 views into `data`, exactly as `schema` says.

    Nothing is copied, so a coordinator holds one update and no more while it folds it in.

    Raises:
        ProtocolError: FA-3001 not safetensors; FA-3002 other names, shapes or types than the schema;
            FA-3003 a value that is not finite.
    """
    header, start = _header(data)
    names = [name for name in header if name != "__metadata__"]
    if set(names) != set(schema):
        odd = sorted(set(names) ^ set(schema))[0]
        raise ProtocolError("FA-3002", f"Tensor '{odd[:80]}' is unexpected or missing.", _ASK_UPDATE)
    weights: Weights = {}
    spans = []
    for name, shape in schema.items():
        begin, end = _span(name, header[name], shape)
        if start + end > len(data):
            raise ProtocolError("FA-3001", "The tensors are cut short.", _SEND_AGAIN)
        value = np.frombuffer(data, np.float32, (end - begin) // 4, start + begin).reshape(shape)
        if not np.isfinite(value).all():
            raise ProtocolError("FA-3003", f"Tensor '{name}' holds NaN or infinity.", _LOWER_RATE)
        weights[name] = value
        spans.append((begin, end))
    if not _fills(sorted(spans), len(data) - start):
        raise ProtocolError("FA-3001", "There are bytes that belong to no tensor or to two.", _SEND_AGAIN)
    return weights


_SEND_AGAIN = "Send the message again; if it stays, update both sides to the same version."
_ASK_UPDATE = "Update the device and the coordinator to the same version."
_LOWER_RATE = "The device's training diverged: lower the learning rate in the recipe."


def _header(data: bytes | memoryview) -> tuple[dict[str, object], int]:
    """The JSON header of safetensors bytes and where the values start.

    Format: 8 bytes little-endian length, JSON, values (https://github.com/huggingface/safetensors).
    """
    try:
        length = int.from_bytes(data[:8], "little")
        if len(data) < 8 or length > min(HEADER_LIMIT, len(data) - 8):
            raise ValueError("header length out of range")
        header = json.loads(bytes(data[8 : 8 + length]), object_pairs_hook=_no_duplicates)
        if not isinstance(header, dict):
            raise ValueError("header is not an object")
        return header, 8 + length
    except (ValueError, RecursionError, SafetensorError) as error:
        raise ProtocolError("FA-3001", "The bytes are not safetensors.", _SEND_AGAIN) from error


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate key")
    return result


def _span(name: str, entry: object, shape: tuple[int, ...]) -> tuple[int, int]:
    """Byte range of one tensor, if its entry says float32 of `shape`."""
    size = 4 * math.prod(shape)
    match entry:
        case {"dtype": "F32", "shape": list(said), "data_offsets": [int(begin), int(end)]} if (
            said == list(shape) and begin >= 0 and end - begin == size
        ):
            return begin, end
    raise ProtocolError("FA-3002", f"Tensor '{name}' is not float32 of shape {shape}.", _ASK_UPDATE)


def _fills(spans: Sequence[tuple[int, int]], length: int) -> bool:
    """Whether `spans`, in order, follow each other without gap or overlap from 0 to `length`."""
    ends = [0, *(end for _, end in spans)]
    return ends == [*(begin for begin, _ in spans), length]
