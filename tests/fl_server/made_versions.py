"""A coordinator that publishes, without rounds and devices."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common.protocol.release import Metrics, Release
from common.protocol.tensors import Weights
from common.task import Task
from fl_server import evidence
from fl_server.home import CoordinatorHome
from fl_server.initialise import initialise
from fl_server.keyring import ServerKeys
from fl_server.registry import Model, Registry
from fl_server.releases import release_folder
from fl_server.settings import ServerSettings
from fl_server.versions import Versions

SETTINGS = ServerSettings(port=0, task=Task(labels=("yes", "no"), width=4, clip_seconds=0.25), seed=3)


def make_home(root: Path) -> CoordinatorHome:
    """A coordinator that has released nothing yet."""
    home = CoordinatorHome(root)
    initialise(home, SETTINGS, names=["127.0.0.1"])
    home.releases.mkdir()
    return home


def open_versions(home: CoordinatorHome, settings: ServerSettings = SETTINGS) -> Versions:
    """As after a restart."""
    versions = Versions(home, settings, Registry(home.database), ServerKeys.load(home, None))
    versions.repair()
    return versions


def publish_next(versions: Versions, memory: bytes = b"m", scale: float = 1.0) -> tuple[int, Weights]:
    parent = versions.current()
    weights = {name: np.asarray(value * scale + 1) for name, value in parent.weights.items()}
    metrics = Metrics(device_accuracy=0.5)
    number = versions.publish(weights, parent, metrics=metrics, participants=2, privacy=None, memory=memory)
    return number, weights


def files_of(home: CoordinatorHome, version: int) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in release_folder(home.releases, version).iterdir()}


def model(home: CoordinatorHome, version: int) -> Model:
    row = Registry(home.database).model(version)
    assert row is not None
    return row


def kinds(home: CoordinatorHome) -> list[str]:
    return [line.split('"kind":"')[1].split('"')[0] for line in evidence.lines(Registry(home.database))]


def assert_same(release: Release, weights: Weights) -> None:
    assert all(release.weights[name].tobytes() == value.tobytes() for name, value in weights.items())
