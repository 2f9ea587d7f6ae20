"""A line of events.jsonl, read back."""

from __future__ import annotations

import json
import re
from typing import Any

from fl_client.reports import is_json

HEARD = frozenset({"event", "alarm"})
"""Types of messages that somebody may want to be called for."""

_BEGIN = b'{"type": "'
_TYPE = re.compile(r"[a-z][a-z0-9_]{0,31}")

Line = dict[str, Any]
"""A message as it was written: type, id, time and its fields."""


def parse_line(data: bytes) -> Line | None:
    """The message of a line; None if it is none, or JSON in UTF-8 cannot be made of it again. NaN and
    Infinity, which JSON has not, become None; a value is a scalar, or a list or object of scalars.

    A line that a power cut has torn has the next message behind it: that one is found.
    """
    for text in (data, data[max(0, data.rfind(_BEGIN)) :]):
        try:
            line = json.loads(text, parse_constant=lambda _: None)
        except (ValueError, RecursionError):
            continue
        if (
            isinstance(line, dict)
            and isinstance(line.get("id"), str)
            and _TYPE.fullmatch(str(line.get("type")))
            and all(map(_is_flat, line.values()))
            and is_json(line)
        ):
            return line
    return None


def _is_flat(value: object) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return not any(isinstance(one, dict | list) for one in inner)
