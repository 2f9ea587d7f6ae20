"""Errors are a product: a stable code, two sentences, a status, a page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import common.errors
from common.errors import FedAudioError
from common.files import StorageError

ROOT = Path(__file__).parents[2]
PACKAGES = ("common", "fedaudio", "fl_client", "fl_server", "simulations")
KINDS = [
    kind
    for kind in (*vars(common.errors).values(), StorageError)
    if isinstance(kind, type) and issubclass(kind, FedAudioError)
]


def raised_codes() -> set[str]:
    """Every code that a string literal of the source is, docstrings aside."""
    return {
        code
        for package in PACKAGES
        for file in (ROOT / package).rglob("*.py")
        for code in re.findall(r'"(FA-\d{4})"', file.read_text(encoding="utf-8"))
    }


def test_an_error_reads_as_code_and_two_sentences() -> None:
    error = FedAudioError("FA-1234", "It broke.", "Mend it.")
    assert str(error) == "FA-1234: It broke. Mend it."
    assert (error.code, error.happened, error.remedy) == ("FA-1234", "It broke.", "Mend it.")


def test_every_kind_ends_the_command_with_its_own_status() -> None:
    statuses = [kind.status for kind in KINDS]
    # 0 is success, and from 126 on a shell means something else by a status.
    assert all(0 < status < 126 for status in statuses)
    # Sound and clips share one status: both are about what somebody recorded.
    assert len(set(statuses)) == len(KINDS) - 1


@pytest.mark.parametrize("code", sorted(raised_codes()))
def test_every_code_has_its_page(code: str) -> None:
    page = (ROOT / "docs" / "errors" / f"{code}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {code}: ")
    happened, remedy = page.index("## What happened"), page.index("## What to do")
    assert page[happened + 16 : remedy].strip()
    assert page[remedy + 13 :].strip()


def test_every_page_is_about_a_code_that_exists() -> None:
    pages = {page.stem for page in (ROOT / "docs" / "errors").glob("FA-*.md")}
    assert pages <= raised_codes()
