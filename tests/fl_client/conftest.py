"""Devices' folders: one with a few clips in it, and one beside a coordinator's desk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fl_client.home import DeviceHome
from tests.fl_client.made_coordinator import Desk
from tests.fl_client.made_identity import Made, make_home
from tests.processes import write_tones


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """An enrolled device with clips; its coordinator is never there."""
    made = make_home(tmp_path / "device")
    write_tones(made.home.clips)
    return made


@pytest.fixture
def device(made: Made) -> DeviceHome:
    return made.home


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A coordinator's desk that is open."""
    desk = Desk(tmp_path)
    with desk.open():
        yield desk
    desk.registry.close()
