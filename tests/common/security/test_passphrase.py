"""Where a passphrase comes from."""

from __future__ import annotations

import getpass
import io
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.errors import ConfigError
from common.security.passphrase import CREDENTIAL, ask_passphrase, find_passphrase


class Terminal(io.StringIO):
    """A keyboard with somebody at it."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What somebody types, line by line; after the last, the end of the input."""
    lines: list[str] = []

    def read(_: str) -> str:
        if not lines:
            raise EOFError
        return lines.pop(0)

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(getpass, "getpass", read)
    return lines


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    return


def test_without_a_file_or_a_credential_there_is_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert find_passphrase(None) is None
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert find_passphrase(None) is None


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_file_holds_one_line(tmp_path: Path, end: bytes) -> None:
    (tmp_path / "file").write_bytes(" two words é ".encode() + end)
    assert find_passphrase(tmp_path / "file") == " two words é ".encode()


def test_a_systemd_credential_serves_and_a_file_goes_before_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / CREDENTIAL).write_bytes(b"from systemd\n")
    assert find_passphrase(None) == b"from systemd"
    (tmp_path / "file").write_bytes(b"from a file")
    assert find_passphrase(tmp_path / "file") == b"from a file"


def test_a_file_that_is_missing_or_empty_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"\n\n")
    for name in ("missing", "empty", "."):
        with pytest.raises(ConfigError, match=f"FA-6008.*{name}"):
            find_passphrase(tmp_path / name)


def test_nobody_at_the_keyboard_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("not for us"))
    assert ask_passphrase("Passphrase") is None


def test_what_is_typed_is_taken(typed: list[str]) -> None:
    typed += ["wörd"]
    assert ask_passphrase("Passphrase") == "wörd".encode()
    typed += ["same", "same"]
    assert ask_passphrase("Passphrase", confirm=True) == b"same"


def test_nothing_typed_means_none(typed: list[str]) -> None:
    assert ask_passphrase("Passphrase", confirm=True) is None
    typed += [""]
    assert ask_passphrase("Passphrase", confirm=True) is None
    typed += ["once"]
    assert ask_passphrase("Passphrase", confirm=True) is None


def test_two_that_differ_are_refused_and_not_repeated(typed: list[str]) -> None:
    typed += ["secret one", "secret two"]
    with pytest.raises(ConfigError, match="FA-6008") as caught:
        ask_passphrase("Passphrase", confirm=True)
    assert "secret" not in str(caught.value)
