"""The documentation tells the truth: each error has a page, each setting is listed, each command exists."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer.main
from pydantic import BaseModel

from fedaudio.cli import app
from fl_client.settings import DeviceSettings
from fl_server.settings import ServerSettings

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("common", "fedaudio", "fl_client", "fl_server", "simulations")


def codes_in_the_code() -> set[str]:
    sources = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return {code for path in sources for code in re.findall(r'"(FA-\d{4})"', path.read_text())}


def test_every_error_has_a_page_and_every_page_an_error() -> None:
    pages = {path.stem for path in (ROOT / "docs" / "errors").glob("*.md")}
    assert pages == codes_in_the_code()


def test_every_page_says_what_happened_and_what_to_do() -> None:
    for page in (ROOT / "docs" / "errors").glob("*.md"):
        text = page.read_text()
        assert text.startswith(f"# {page.stem}: ")
        assert text.index("## What happened") < text.index("## What to do")


def keys(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield name
        yield from _keys_of_type(field.annotation)


def _keys_of_type(annotation: object) -> Iterator[str]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        if issubclass(annotation, BaseModel):
            yield from keys(annotation)
        return
    for inner in typing.get_args(annotation):
        yield from _keys_of_type(inner)


@pytest.mark.parametrize("model", [ServerSettings, DeviceSettings])
def test_every_setting_is_listed(model: type[BaseModel]) -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    missing = {key for key in keys(model) if f"`{key}`" not in text and f".{key}]" not in text}
    tables = {"task", "rounds", "recipe", "privacy", "optimizer", "aggregation", "gate", "devices"}
    assert not missing - {*tables, "keep", "outlet", "releases"}


@pytest.mark.parametrize("page", ["README.md", "docs/guide.md", "docs/listening.md", "docs/simulations.md"])
def test_every_command_named_exists(page: str) -> None:
    commands = typer.main.get_command(app)
    named = re.findall(
        r"\bfedaudio ((?:server|client|simulate|demo)(?: [a-z]+)*)((?: --[a-z-]+)*)",
        (ROOT / page).read_text(),
    )
    assert len(named) > 5
    for words, options in named:
        command: click.Command = commands
        for word in words.split():
            if not isinstance(command, click.Group) or word not in command.commands:
                break
            command = command.commands[word]
        assert command is not commands, words
        known = {
            option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)
        }
        assert set(options.split()) <= known, (words, options)


def test_every_defence_is_shown_by_tests_that_exist() -> None:
    rows = re.findall(
        r"^\| (?!attacker|---)(.+?) \|.*\| (.+?) \|$", THREATS.split("## Attackers")[1], re.MULTILINE
    )
    assert len(rows) > 15
    for attacker, shown_by in rows:
        named = re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", shown_by)
        assert named, attacker
        for file, test in named:
            assert f"def {test}" in (ROOT / "tests" / file).read_text(), (attacker, file, test)


THREATS = (ROOT / "docs" / "threat-model.md").read_text()
