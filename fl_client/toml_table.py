"""Replaces one table in a TOML file that a person has written, and leaves the rest as it is."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping

import tomli_w

from common.errors import DeviceError

_HEADER = re.compile(r"\s*\[")


def merge_table(text: str, path: tuple[str, str], values: Mapping[str, float], note: str) -> str:
    """`text` with `values` in the table `path`, for instance ("listen", "thresholds"); other keys stay.

    Comments stay too, except those within the table, in whose place `note` comes. A table that is not there
    is added at the end.

    Raises:
        DeviceError: FA-4222, the table is there in a form that cannot be replaced, such as {a = 1, b = 2}.
    """
    outer, inner = path
    before = tomllib.loads(text)
    table = before.get(outer, {}).get(inner, {}) | dict(values)
    wanted = before | {outer: before.get(outer, {}) | {inner: table}}
    header, *rows = tomli_w.dumps({outer: {inner: table}}).rstrip("\n").split("\n")
    lines = text.split("\n")
    begin, end = _place(lines, path)
    if begin == end:
        while lines and not lines[-1].strip():
            lines.pop()
        begin = end = len(lines)
        header = f"\n{header}" if lines else header
    lines[begin:end] = [header, f"# {note}", *rows]
    merged = "\n".join(lines).rstrip("\n") + "\n"
    try:
        # Not every way to write TOML is known here: what the file means is what counts.
        if tomllib.loads(merged) == wanted:
            return merged
    except tomllib.TOMLDecodeError:
        pass
    raise DeviceError(
        "FA-4222",
        f"{outer}.{inner} is written in a way that cannot be replaced without touching the rest.",
        f"Write it as a table of its own under the line [{outer}.{inner}], or take it out, and try again.",
    )


def _place(lines: list[str], path: tuple[str, str]) -> tuple[int, int]:
    """First line of the table and the line after its last key; (0, 0) if it is not there."""
    own = re.compile(r"\s*\[\s*" + r"\s*\.\s*".join(map(re.escape, path)) + r"\s*\]\s*(#.*)?$")
    begin = next((number for number, line in enumerate(lines) if own.match(line)), None)
    if begin is None:
        return 0, 0
    after = range(begin + 1, len(lines))
    end = next((number for number in after if _HEADER.match(lines[number])), len(lines))
    # A comment just above the next table is about that table.
    while end > begin + 1 and (not lines[end - 1].strip() or lines[end - 1].lstrip().startswith("#")):
        end -= 1
    return begin, end
