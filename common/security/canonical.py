"""Values as JSON bytes with exactly one encoding, so that what was signed is what is read."""

from __future__ import annotations

import json
import re
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ValidationError

from common.settings import first_fault

Model = TypeVar("Model", bound=BaseModel)

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")

Printable = Annotated[str, AfterValidator(lambda text: _CONTROL.sub(" ", text))]
"""Text that is shown to people: control characters, line ends and changes of direction become spaces.

So a peer cannot send any, for what it sent would not be the encoding of what is read.
"""


def canonical(value: BaseModel) -> bytes:
    """The one encoding of `value`: compact JSON, UTF-8, keys in the order of the fields.

    Numbers are as Python writes them. What pydantic writes has changed from version to version.

    Raises:
        ValueError: a number in `value` is not finite.
    """
    document = value.model_dump(mode="json", by_alias=True)
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def read_canonical(model: type[Model], data: bytes) -> Model | str:
    """The value that `data` is the encoding of, or what is wrong with it in a few words.

    Duplicate keys, other spellings of a number, spaces and keys out of order are all "not canonical".
    """
    try:
        value = model.model_validate_json(data)
        same = canonical(value) == data
    except ValidationError as error:
        return _CONTROL.sub(" ", first_fault(error))
    except ValueError:
        return "a number in it is not finite"
    return value if same else "it is not in canonical form"
