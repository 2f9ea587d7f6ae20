"""A coordinator's folder with all its keys, for tests that change nothing in it but the database."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.task import Task
from fl_server.authority import DeviceAuthority
from fl_server.home import CoordinatorHome
from fl_server.initialise import initialise
from fl_server.registry import Registry
from fl_server.settings import ServerSettings


@pytest.fixture
def home(tmp_path: Path) -> CoordinatorHome:
    """A coordinator that was just made, its keys protected by file mode."""
    place = CoordinatorHome(tmp_path / "server")
    initialise(place, ServerSettings(task=Task(labels=("yes", "no"))), names=["localhost", "127.0.0.1"])
    return place


@pytest.fixture
def registry(home: CoordinatorHome) -> Registry:
    return Registry(home.database)


@pytest.fixture
def authority(home: CoordinatorHome) -> DeviceAuthority:
    return DeviceAuthority.load(home, None)
