"""Releases of a coordinator: a line of versions that survives a crash at every step."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from common.errors import CoordinatorError
from common.files import sha256
from common.protocol.release import FILES, MANIFEST, WEIGHTS, Metrics, Release, load_release
from common.protocol.tensors import Weights
from common.task import Task
from fl_server.coordinator import Coordinator
from fl_server.home import CoordinatorHome
from fl_server.initialise import initialise
from fl_server.registry import Model, Registry, Round
from fl_server.releases import current_version, release_folder, store_release
from fl_server.settings import ServerSettings
from fl_server.status import is_running
from fl_server.versions import Versions

SETTINGS = ServerSettings(port=0, task=Task(labels=("yes", "no"), width=4), seed=3)


@pytest.fixture
def home(tmp_path: Path) -> CoordinatorHome:
    home = CoordinatorHome(tmp_path / "server")
    initialise(home, SETTINGS, names=["127.0.0.1"])
    home.releases.mkdir()
    return home


def open_versions(home: CoordinatorHome) -> Versions:
    """As after a restart."""
    versions = Versions(home, SETTINGS, Registry(home.database))
    versions.repair()
    return versions


def publish_next(versions: Versions, memory: bytes = b"m") -> tuple[int, Weights]:
    parent = versions.current()
    weights = {name: np.asarray(value + 1) for name, value in parent.weights.items()}
    metrics = Metrics(device_accuracy=0.5)
    number = versions.publish(
        weights, parent, metrics=metrics, participants=2, privacy=None, optimizer_memory=memory
    )
    return number, weights


def assert_same(release: Release, weights: Weights) -> None:
    assert all(release.weights[name].tobytes() == value.tobytes() for name, value in weights.items())


def test_the_first_version_follows_from_the_seed(home: CoordinatorHome, tmp_path: Path) -> None:
    first = open_versions(home).current()
    assert (first.version, first.manifest.parent, first.manifest.task) == (0, None, SETTINGS.task)
    assert current_version(home.releases) == 0
    other = CoordinatorHome(tmp_path / "other")
    initialise(other, SETTINGS, names=["127.0.0.1"])
    other.releases.mkdir()
    assert_same(open_versions(other).current(), dict(first.weights))


def test_a_published_version_is_the_child_of_the_one_before(home: CoordinatorHome) -> None:
    versions = open_versions(home)
    number, weights = publish_next(versions)
    release = open_versions(home).current()
    assert number == release.version == current_version(home.releases) == 1
    assert (release.manifest.parent, release.manifest.participants) == (0, 2)
    assert release.manifest.metrics.device_accuracy == 0.5
    assert_same(release, weights)
    assert release.graph == load_release(release_folder(home.releases, 0)).graph
    assert sha256(versions.weights_bytes(1)) == release.manifest.weights


def test_the_optimiser_remembers_recent_versions_only(home: CoordinatorHome) -> None:
    versions = open_versions(home)
    for step in range(5):
        publish_next(versions, memory=b"m%d" % step)
    assert versions.optimizer_memory(5) == b"m4"
    assert versions.optimizer_memory(4) == b"m3"
    assert versions.optimizer_memory(1) is None
    assert versions.optimizer_memory(99) is None


def test_a_folder_that_never_became_official_is_dropped(home: CoordinatorHome) -> None:
    versions = open_versions(home)
    publish_next(versions)
    # The crash: version 2 is on the disk, its row is not.
    store_release(home.releases, 2, dict.fromkeys(FILES, b"of a round that was never finished"))
    (home.releases / ".new-abandoned").mkdir()
    restarted = open_versions(home)
    assert restarted.current().version == 1
    assert sorted(entry.name for entry in home.releases.iterdir()) == ["00000000", "00000001", "current"]
    number, weights = publish_next(restarted)
    assert number == 2
    assert_same(restarted.current(), weights)


def test_a_version_that_was_not_pointed_to_yet_is(home: CoordinatorHome) -> None:
    versions = open_versions(home)
    publish_next(versions)
    # The crash: the row is written, the pointer is not.
    (home.releases / "current").write_text("0\n")
    assert open_versions(home).current().version == 1
    assert current_version(home.releases) == 1


def test_a_damaged_release_is_not_trained_from(home: CoordinatorHome) -> None:
    versions = open_versions(home)
    publish_next(versions)
    file = release_folder(home.releases, 1) / WEIGHTS
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(Exception, match="FA-3012"):
        open_versions(home).current()


class TestInterruptedRounds:
    """What `Coordinator.serve` does with a round that a crash left running."""

    def serve_once(self, home: CoordinatorHome) -> Registry:
        stop = threading.Event()
        stop.set()
        Coordinator(home, SETTINGS).serve(stop)
        return Registry(home.database)

    def leave_running(self, home: CoordinatorHome, base: int, orders: int) -> int:
        registry = Registry(home.database)
        order = registry.place_order(orders)
        started = registry.models()[0].created
        with registry.session() as session:
            session.add(Round(round=4, order=order.id, base=base, state="running", started=started))
        return order.id

    def test_without_a_version_it_is_void(self, home: CoordinatorHome) -> None:
        open_versions(home).current()
        order = self.leave_running(home, base=0, orders=1)
        registry = self.serve_once(home)
        assert [row.state for row in registry.rounds()] == ["void"]
        assert (registry.order(order).state, registry.order(order).done) == ("open", 0)
        assert registry.next_round() == 5

    @pytest.mark.parametrize(("orders", "state"), [(1, "done"), (2, "open")])
    def test_with_its_version_it_counts(self, home: CoordinatorHome, orders: int, state: str) -> None:
        versions = open_versions(home)
        publish_next(versions)
        order = self.leave_running(home, base=0, orders=orders)
        registry = self.serve_once(home)
        (row,) = registry.rounds()
        assert (row.state, row.version, row.participants) == ("done", 1, 2)
        assert (registry.order(order).state, registry.order(order).done) == (state, 1)
        # A second restart changes nothing more.
        registry = self.serve_once(home)
        assert registry.order(order).done == 1


def test_a_second_coordinator_touches_nothing(home: CoordinatorHome) -> None:
    open_versions(home).current()
    # What the first one has written and is about to make official.
    store_release(home.releases, 1, dict.fromkeys(FILES, b"x"))
    first = Coordinator(home, SETTINGS)
    with first._alone():
        assert is_running(home)
        with pytest.raises(CoordinatorError, match="FA-5003"):
            Coordinator(home, SETTINGS).serve(threading.Event())
        assert (release_folder(home.releases, 1) / MANIFEST).is_file()
    assert not is_running(home)


def test_asking_whether_it_runs_does_not_keep_a_coordinator_from_starting(home: CoordinatorHome) -> None:
    home.lock.touch()
    asking, enough = threading.Event(), threading.Event()

    def ask() -> None:
        while not enough.is_set():
            is_running(home)
            asking.set()

    curious = threading.Thread(target=ask)
    curious.start()
    asking.wait()
    try:
        for _ in range(20):
            with Coordinator(home, SETTINGS)._alone():
                pass
    finally:
        enough.set()
        curious.join()
    assert not is_running(home)


def test_rows_of_versions_name_their_weights(home: CoordinatorHome) -> None:
    versions = open_versions(home)
    publish_next(versions)
    rows = Registry(home.database).models()
    assert all(isinstance(row, Model) for row in rows)
    for row in rows:
        assert row.weights == sha256(versions.weights_bytes(row.version))
