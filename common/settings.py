"""Configuration as a value: frozen pydantic models read from one TOML file."""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from common.errors import ConfigError


class Settings(BaseModel):
    """Base of every configuration value: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Model = TypeVar("Model", bound=BaseModel)


def load_settings(model: type[Model], path: Path) -> Model:
    """Read `path` (TOML) as a `model`.

    Raises:
        ConfigError: FA-6001 the file is missing, FA-6002 it is not TOML, FA-6003 a key or value is wrong.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        remedy = "Make it first: `fedaudio server init` or `fedaudio client enroll`."
        raise ConfigError("FA-6001", f"There is no {path}.", remedy) from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError("FA-6002", f"{path} is not readable TOML: {error}.", "Correct the file.") from error
    return parse_settings(model, document, str(path))


def parse_settings(model: type[Model], document: object, source: str) -> Model:
    """Check `document` against `model`; `source` names it in the message.

    Raises:
        ConfigError: FA-6003, with the nearest known key where a key is unknown.
    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = difflib.get_close_matches(str(first["loc"][-1]), sorted(_keys(model)), n=1)
            hint = f"Did you mean '{known[0]}'?" if known else "Remove it."
            raise ConfigError("FA-6003", f"{source}: unknown key '{where}'.", hint) from error
        raise ConfigError(
            "FA-6003", f"{source}: {first_fault(error)}.", "Correct the value and try again."
        ) from error


def split_list(text: str) -> list[str]:
    """The entries of a list that was written with commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def finite(value: float | None) -> float | None:
    """`value` as it is, if it is a number to compute with; for options, whose ranges let NaN pass.

    Raises:
        ConfigError: FA-6003.
    """
    if value is None or math.isfinite(value):
        return value
    raise ConfigError("FA-6003", f"{value} is not a finite number.", "Correct the value and try again.")


def first_fault(error: ValidationError) -> str:
    """What is wrong with the first faulty field, or with fields that do not go together, in a few words,
    however long what was sent is.
    """
    detail = error.errors()[0]
    where = ".".join(str(part) for part in detail["loc"])
    # What is wrong with several fields together is nowhere in particular.
    return f"'{where[:80]}': {detail['msg'][:200]}" if where else detail["msg"][:200]


def _keys(model: type[BaseModel]) -> Iterable[str]:
    """Every key of `model` and of the models inside it."""
    for name, field in model.model_fields.items():
        yield name
        for inner in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from _keys(inner)
