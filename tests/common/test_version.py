"""One version: of the code, of the package, of the public API."""

from __future__ import annotations

import tomllib
from pathlib import Path

import fedaudio
from common.version import VERSION


def test_the_code_knows_the_packages_version() -> None:
    project = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())["project"]
    assert project["version"] == VERSION == fedaudio.__version__
