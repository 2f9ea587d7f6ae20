"""Releases of a coordinator: a line of versions that survives a crash at every step."""

from __future__ import annotations

import shutil
import threading
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from common.audio.golden import golden_clip
from common.errors import CoordinatorError
from common.files import sha256
from common.protocol.release import (
    FILES,
    MANIFEST,
    SIGNATURE,
    WEIGHTS,
    Metrics,
    digest_of,
    load_release,
)
from common.protocol.signed_release import verify_release
from fl_server import evidence
from fl_server.alone import alone
from fl_server.coordinator import Coordinator
from fl_server.home import CoordinatorHome
from fl_server.keyring import ServerKeys
from fl_server.registry import Model, Registry, Round
from fl_server.releases import release_folder, stages, store_release, version_for
from fl_server.settings import ReleaseRules
from fl_server.status import is_running
from tests.fl_server.made_versions import (
    SETTINGS,
    assert_same,
    files_of,
    kinds,
    make_home,
    model,
    open_versions,
    publish_next,
)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A coordinator's folder with version 0 in it: tracing its graph takes seconds."""
    home = make_home(tmp_path_factory.mktemp("begun") / "server")
    open_versions(home).current()
    return home.root


@pytest.fixture
def home(begun: Path, tmp_path: Path) -> CoordinatorHome:
    """A coordinator that has released version 0."""
    shutil.copytree(begun, tmp_path / "server")
    return CoordinatorHome(tmp_path / "server")


@pytest.fixture
def fresh(tmp_path: Path) -> CoordinatorHome:
    """A coordinator that has released nothing yet."""
    return make_home(tmp_path / "fresh")


def test_the_first_version_follows_from_the_seed(home: CoordinatorHome, fresh: CoordinatorHome) -> None:
    first = open_versions(fresh).current()
    assert (first.version, first.manifest.parent, first.manifest.task) == (0, None, SETTINGS.task)
    assert version_for(None, stages(fresh.releases)) == 0
    assert_same(open_versions(home).current(), dict(first.weights))


def test_a_published_version_is_the_child_of_the_one_before(home: CoordinatorHome) -> None:
    versions = open_versions(home)
    number, weights = publish_next(versions)
    release = open_versions(home).current()
    assert number == release.version == version_for(None, stages(home.releases)) == 1
    assert (release.manifest.parent, release.manifest.participants) == (0, 2)
    assert release.manifest.metrics.device_accuracy == 0.5
    assert_same(release, weights)
    assert release.graph == load_release(release_folder(home.releases, 0)).graph
    assert sha256((release_folder(home.releases, 1) / WEIGHTS).read_bytes()) == release.manifest.weights


def test_the_optimiser_remembers_recent_versions_only(home: CoordinatorHome) -> None:
    versions = open_versions(home)
    for step in range(5):
        publish_next(versions, memory=b"m%d" % step)
    assert versions.memory(5) == b"m4"
    assert versions.memory(4) == b"m3"
    assert versions.memory(1) is None
    assert versions.memory(99) is None


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
    (home.releases / "current").write_text("[[0,100.0]]")
    assert open_versions(home).current().version == 1
    assert version_for(None, stages(home.releases)) == 1


def test_a_damaged_release_is_not_trained_from(home: CoordinatorHome) -> None:
    versions = open_versions(home)
    publish_next(versions)
    file = release_folder(home.releases, 1) / WEIGHTS
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(Exception, match="FA-3012"):
        open_versions(home).current()


class TestSigning:
    def test_what_is_released_is_signed_and_verifies(self, home: CoordinatorHome) -> None:
        versions = open_versions(home)
        publish_next(versions)
        keys = ServerKeys.load(home, None)
        for version in (0, 1):
            files = files_of(home, version)
            release = verify_release(files, keys.trust.release_keys(), keys.coordinator)
            manifest = release.manifest
            assert sorted(files) == sorted(FILES)
            assert manifest.coordinator == keys.coordinator
            assert manifest.expires - manifest.created == timedelta(days=SETTINGS.releases.valid_days)
            assert manifest.golden.digest == digest_of(golden_clip(SETTINGS.task.clip_samples))
            assert sum(manifest.golden.scores) == pytest.approx(1, abs=1e-4)
            assert model(home, version).signed
            assert model(home, version).rollout == 100

    def test_a_version_names_the_evidence_that_was_there(self, home: CoordinatorHome) -> None:
        registry = Registry(home.database)
        before = evidence.head(registry)
        publish_next(open_versions(home))
        anchor = load_release(release_folder(home.releases, 1)).manifest.evidence
        assert (anchor.entries, anchor.head) == before
        evidence.check_anchor(registry, anchor.entries, anchor.head, "the release 1")
        assert kinds(home)[-1] == "release"
        (line,) = list(evidence.lines(registry))[before[0] :]
        assert sha256(files_of(home, 1)[MANIFEST]) in line
        evidence.verify(registry, home.root / evidence.HEAD)

    def test_without_the_key_a_version_waits_and_is_trained_from(
        self, home: CoordinatorHome, caplog: pytest.LogCaptureFixture
    ) -> None:
        versions = open_versions(home)
        versions.current()
        (home.keys / "release.key").rename(home.root / "away.key")
        versions = open_versions(home)
        number, weights = publish_next(versions)
        assert SIGNATURE not in files_of(home, number)
        assert (model(home, 1).signed, model(home, 1).rollout) == (False, 0)
        assert stages(home.releases) == [(0, 100.0)]
        assert "models sign" in caplog.text
        assert "models promote 1" in caplog.text
        # The federation goes on from it all the same.
        restarted = open_versions(home)
        assert_same(restarted.current(), weights)
        assert publish_next(restarted)[0] == 2
        assert stages(home.releases) == [(0, 100.0)]

    def test_scores_that_are_not_numbers_are_not_released(self, home: CoordinatorHome) -> None:
        versions = open_versions(home)
        parent = versions.current()
        huge = {name: np.full_like(value, 3e38) for name, value in parent.weights.items()}
        with pytest.raises(CoordinatorError, match="FA-5030"):
            versions.publish(huge, parent, metrics=Metrics(), participants=1, privacy=None, memory=b"")
        assert versions.current().version == 0
        assert stages(home.releases) == [(0, 100.0)]

    def test_a_new_version_is_given_to_the_first_stage_only(self, home: CoordinatorHome) -> None:
        careful = SETTINGS.model_copy(update={"releases": ReleaseRules(first_stage=1.0)})
        versions = open_versions(home, careful)
        publish_next(versions)
        # The first model of all is for everybody: there is nothing else to listen with.
        assert stages(home.releases) == [(1, 1.0), (0, 100.0)]
        assert version_for(None, stages(home.releases)) == 0
        assert versions.current().version == 1


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
    with alone(home):
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
            with alone(home):
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
        stored = release_folder(home.releases, row.version) / WEIGHTS
        assert row.weights == sha256(stored.read_bytes())
