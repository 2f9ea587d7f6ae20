"""Configuration: every wrong file is explained in one sentence, and a known one is a value."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError
from typer.testing import CliRunner

from common.errors import ConfigError
from common.settings import Settings, finite, load_settings, parse_settings
from fedaudio.cli import app
from fl_server.settings import ServerSettings


class Inner(Settings):
    learning_rate: float = Field(0.1, gt=0)
    batch_size: int = 8


class Outer(Settings):
    name: str
    inner: Inner = Inner()
    other: Inner | None = None


def test_a_file_is_a_value(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text('name = "x"\n[inner]\nlearning_rate = 0.5\n')
    assert load_settings(Outer, file) == Outer(name="x", inner=Inner(learning_rate=0.5))


def test_values_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Inner().batch_size = 9  # type: ignore[misc]


@pytest.mark.parametrize(
    ("document", "where", "nearest"),
    [
        ({"name": "x", "nmae": "y"}, "nmae", "name"),
        ({"name": "x", "inner": {"learningrate": 1}}, "inner.learningrate", "learning_rate"),
        ({"name": "x", "other": {"batchsize": 1}}, "other.batchsize", "batch_size"),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(
    document: dict[str, object], where: str, nearest: str
) -> None:
    with pytest.raises(ConfigError, match="FA-6003") as caught:
        parse_settings(Outer, document, "here")
    assert f"'{where}'" in caught.value.happened
    assert caught.value.remedy == f"Did you mean '{nearest}'?"


def test_an_unknown_key_like_no_other_is_to_be_removed() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_settings(Outer, {"name": "x", "zzzzzz": 1}, "here")
    assert caught.value.remedy == "Remove it."


@pytest.mark.parametrize(
    ("section", "wrong", "nearest"),
    [
        ("rounds", "min_device", "min_devices"),
        ("recipe", "epoch", "epochs"),
        ("optimizer", "learningrate", "learning_rate"),
        ("privacy", "noise_multiplyer", "noise_multiplier"),
    ],
)
def test_each_section_of_a_coordinator_helps(section: str, wrong: str, nearest: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_settings(ServerSettings, {"task": {"labels": ["a", "b"]}, section: {wrong: 1}}, "server.toml")
    assert caught.value.remedy == f"Did you mean '{nearest}'?"


def test_a_wrong_value_is_located(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text('name = "x"\n[inner]\nlearning_rate = -1\n')
    with pytest.raises(ConfigError, match="FA-6003") as caught:
        load_settings(Outer, file)
    assert "inner.learning_rate" in caught.value.happened
    assert str(file) in caught.value.happened


@pytest.mark.parametrize("data", [b"name = ", b"\xff\xfe", b"[a\n", b"name = 'x'\nname = 'y'\n", b"\0"])
def test_what_is_not_toml_is_said_to_be(data: bytes, tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_bytes(data)
    with pytest.raises(ConfigError, match="FA-6002"):
        load_settings(Outer, file)


def test_a_missing_file_and_a_folder_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="FA-6001"):
        load_settings(Outer, tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="FA-6001"):
        load_settings(Outer, tmp_path / "none" / "a.toml")
    with pytest.raises(ConfigError, match="FA-6002"):
        load_settings(Outer, tmp_path)


@given(st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.dictionaries(st.text(), inner)))
def test_any_document_is_a_value_or_a_config_error(document: object) -> None:
    with suppress(ConfigError):
        assert isinstance(parse_settings(Outer, document, "here"), Outer)


def test_an_option_is_a_number_to_compute_with() -> None:
    """A range lets NaN pass, for it is neither below nor above anything."""
    assert (finite(None), finite(0.5)) == (None, 0.5)
    for value in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(ConfigError, match="FA-6003"):
            finite(value)


@pytest.mark.parametrize(
    "command",
    [["server", "models", "promote", "1", "--percent", "nan"], ["simulate", "robustness", "--share", "nan"]],
)
def test_commands_refuse_what_is_no_number(command: list[str]) -> None:
    assert "FA-6003" in str(CliRunner().invoke(app, command).exception)
