"""From a name or a file, and what the command line says otherwise, to a scenario."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from common.errors import ConfigError, SimulationError
from common.settings import parse_settings
from fl_server.settings import BABBLE
from simulations.scenario import Scenario

DATA_VARIABLE = "FEDAUDIO_DATA"
"""Environment variable that names the folder of collections."""

_SHIPPED = resources.files("simulations") / "scenarios"


def shipped_scenarios() -> dict[str, str]:
    """Name of each scenario that comes with fedaudio, sorted, and what it is about."""
    files = [file for file in _SHIPPED.iterdir() if file.name.endswith(".toml")]
    documents = [tomllib.loads(file.read_text(encoding="utf-8")) for file in files]
    return dict(sorted((document["name"], document["about"]) for document in documents))


def load_scenario(name_or_path: str, overrides: Sequence[str] = ()) -> Scenario:
    """The scenario that is shipped as `name_or_path`, or the one in that TOML file.

    Relative paths in it are looked for beside the file (for a shipped one, in the current folder) and then in
    $FEDAUDIO_DATA; in the scenario that is returned they are absolute.

    Args:
        overrides: "key=value" or "table.key=value", each in place of what is there. Values are TOML; what is
            not is taken as text, so that words need no quotes.

    Raises:
        SimulationError: FA-9100 no such scenario, FA-9101 a malformed override, FA-9102 no such data.
        ConfigError: FA-6002 the file is not TOML, FA-6003 a key or value is wrong.
    """
    path = Path(name_or_path)
    is_file = path.is_file()
    document = _document(path.read_bytes() if is_file else _shipped(name_or_path), name_or_path)
    for override in overrides:
        _override(document, override)
    scenario = parse_settings(Scenario, document, name_or_path)
    beside = path.absolute().parent if is_file else Path.cwd()
    data, behaviour = scenario.data, scenario.behaviour
    if data.path is not None:
        data = data.model_copy(update={"path": _found(data.path, beside)})
    if behaviour.trace is not None:
        behaviour = behaviour.model_copy(update={"trace": _found(behaviour.trace, beside)})
    warm = scenario.warm_start
    if warm is not None:
        sources = [one if one == BABBLE else str(_found(Path(one), beside)) for one in warm.sources]
        if data.path is not None and str(data.path) in sources:
            raise ConfigError(
                "FA-6003",
                f"{data.path} is to be learned from before any device, and it is what devices are tested on.",
                "Name another collection in warm_start.sources.",
            )
        warm = warm.model_copy(update={"sources": tuple(sources)})
    return scenario.model_copy(update={"data": data, "behaviour": behaviour, "warm_start": warm})


def _shipped(name: str) -> bytes:
    known = list(shipped_scenarios())
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean '{near[0]}'?" if near else f"Give a TOML file, or one of: {', '.join(known)}."
        raise SimulationError("FA-9100", f"There is no scenario and no file '{name}'.", hint)
    return (_SHIPPED / f"{name}.toml").read_bytes()


def _document(data: bytes, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(data.decode())
    except ValueError as error:  # of which UnicodeDecodeError and TOMLDecodeError are kinds
        happened = f"{source} is not readable TOML: {error}."
        raise ConfigError("FA-6002", happened, "Correct the file.") from error


def _override(document: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    *tables, last = (part.strip() for part in key.split("."))
    for name in tables:
        document = document.setdefault(name, {})
        if not isinstance(document, dict):
            raise _bad_override(text, f"'{name}' is not a table")
    if not equals or not all((*tables, last)):
        raise _bad_override(text, "it is not of the form key=value")
    document[last] = _value(value.strip())


def _value(text: str) -> object:
    try:
        document = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    # With a line break in it, a text may be the start of a whole document.
    return document["value"] if len(document) == 1 else text


def _bad_override(text: str, why: str) -> SimulationError:
    return SimulationError(
        "FA-9101", f"'{text}' cannot be set: {why}.", "Write, for example, --set population.devices=100."
    )


def _found(path: Path, beside: Path) -> Path:
    """`path` made absolute, where it is.

    Raises:
        SimulationError: FA-9102, it is nowhere.
    """
    variable = os.environ.get(DATA_VARIABLE)
    places = [beside, *([Path(variable).absolute()] if variable else [])]
    # A path that is absolute stays so wherever it is looked for.
    candidates = dict.fromkeys(place / path.expanduser() for place in places)
    for candidate in candidates:
        if candidate.exists():
            return candidate
    raise SimulationError(
        "FA-9102",
        f"There is no {' and no '.join(map(str, candidates))}.",
        f"Give an absolute path, or set {DATA_VARIABLE} to the folder in which {path.name} is.",
    )
