"""What a device may be called. One rule for the device, its certificate and the coordinator."""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated

from pydantic import AfterValidator, Field

_LIKE_AN_ID = re.compile(r"[0-9a-f]{4,32}")


def _tells_apart(name: str) -> str:
    if _LIKE_AN_ID.fullmatch(name):
        raise ValueError("a name must not look like the id of a device")
    if name.startswith(("-", ".")):
        raise ValueError("a name begins with a letter or a digit")
    if any(unicodedata.category(letter) == "Cf" for letter in name):
        raise ValueError("a name has no characters that cannot be seen")
    return name


DeviceName = Annotated[
    str, Field(min_length=1, max_length=64, pattern=r"^[\w.-]+$"), AfterValidator(_tells_apart)
]
"""Letters, marks, digits, connectors, points and hyphens.

Operators name devices by name or by the beginning of an id, so a name must not pose as an id, as an
option, or as another name that looks the same.
"""
