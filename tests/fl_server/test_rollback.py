"""Going back to old weights under a new number, whatever else goes on and wherever it is cut off."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from common.errors import CoordinatorError
from common.protocol.plan import Recipe
from common.protocol.release import WEIGHTS, Metrics, load_release
from common.protocol.signed_release import verify_release
from fl_server import evidence
from fl_server.home import CoordinatorHome
from fl_server.keyring import ServerKeys, release_keys_ever
from fl_server.registry import Model, Registry
from fl_server.releases import release_folder, stages, version_for
from fl_server.settings import ReleaseRules, ServerSettings
from fl_server.versions import Versions
from fl_server.witnesses import check_releases
from tests.fl_server.made_versions import (
    SETTINGS,
    assert_same,
    files_of,
    kinds,
    make_home,
    open_versions,
    publish_next,
)

ROOT = Path(__file__).resolve().parents[2]


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


def test_it_is_a_higher_version_with_the_very_weights(home: CoordinatorHome) -> None:
    versions = open_versions(home)
    _, first = publish_next(versions, b"first")
    publish_next(versions, b"second")
    row = versions.rollback()
    assert (row.version, row.parent, row.restores, row.rollout) == (3, 2, 1, 100)
    old, new = (load_release(release_folder(home.releases, version)) for version in (1, 3))
    assert_same(new, first)
    assert files_of(home, 3)[WEIGHTS] == files_of(home, 1)[WEIGHTS]
    assert (new.manifest.parent, new.manifest.restores) == (2, 1)
    assert new.manifest.tensors == old.manifest.tensors
    assert new.manifest.golden == old.manifest.golden
    assert new.manifest.metrics == old.manifest.metrics
    assert new.manifest.created > old.manifest.created
    keys = ServerKeys.load(home, None)
    verify_release(files_of(home, 3), keys.trust.release_keys(), keys.coordinator)
    assert stages(home.releases) == [(3, 100.0)]
    assert versions.memory(3) == b"first"
    assert kinds(home)[-1] == "rollback"


def test_the_next_round_goes_on_from_it(home: CoordinatorHome) -> None:
    running, operator = open_versions(home), open_versions(home)
    publish_next(running)
    publish_next(running)
    operator.rollback(0)
    assert running.current().version == 3
    number, weights = publish_next(running)
    assert number == 4
    assert_same(operator.current(), weights)


def test_a_round_that_was_under_way_is_not_released_over_it(home: CoordinatorHome) -> None:
    running, operator = open_versions(home), open_versions(home)
    publish_next(running)
    parent = running.current()
    operator.rollback()
    with pytest.raises(CoordinatorError, match="FA-5034"):
        running.publish(parent.weights, parent, metrics=Metrics(), participants=2, privacy=None, memory=b"")
    assert [row.version for row in Registry(home.database).models()] == [0, 1, 2]
    assert operator.current().manifest.restores == 0


def test_each_one_goes_back_one_more(home: CoordinatorHome) -> None:
    versions = open_versions(home)
    for _ in range(3):
        publish_next(versions)
    assert [versions.rollback().restores for _ in range(3)] == [2, 1, 0]
    with pytest.raises(CoordinatorError, match="FA-5033"):
        versions.rollback()


def test_what_the_optimiser_knew_long_ago_is_not_mixed_with_what_it_knows(home: CoordinatorHome) -> None:
    versions = open_versions(home)
    for step in range(5):
        publish_next(versions, b"m%d" % step)
    assert versions.memory(1) is None
    assert versions.rollback(1).version == 6
    assert versions.memory(6) is None


@pytest.mark.parametrize(("to", "code"), [(1, "FA-5007"), (2, "FA-5007"), (None, "FA-5033")])
def test_there_must_be_a_version_to_go_back_to(to: int | None, code: str, home: CoordinatorHome) -> None:
    versions = open_versions(home)
    versions.current()
    with pytest.raises(CoordinatorError, match=code):
        versions.rollback(to)


def test_the_newest_version_is_renewed_before_it_expires(home: CoordinatorHome) -> None:
    versions = open_versions(home)
    _, weights = publish_next(versions, b"memory")
    before = versions.current().manifest
    row = versions.rollback(1)
    after = versions.current()
    assert (row.version, row.parent, row.restores) == (2, 1, 1)
    assert_same(after, weights)
    assert after.manifest.created > before.created
    assert after.manifest.expires > before.expires
    assert versions.memory(2) == b"memory"
    assert stages(home.releases) == [(2, 100.0)]
    # To go back is still to go back to what those weights were made from.
    assert versions.rollback().restores == 0


@pytest.mark.parametrize(
    ("old", "new", "expected"), [("0.9.0", "0.10.0", "0.10.0"), ("0.10.0", "0.9.0", "0.10.0")]
)
def test_a_rollback_needs_no_older_client_than_either(
    home: CoordinatorHome, old: str, new: str, expected: str
) -> None:
    def with_minimum(version: str) -> ServerSettings:
        return SETTINGS.model_copy(update={"releases": ReleaseRules(minimum_client=version)})

    publish_next(open_versions(home, with_minimum(old)))
    versions = open_versions(home, with_minimum(new))
    assert versions.current().manifest.minimum_client == old
    versions.rollback(1)
    assert versions.current().manifest.minimum_client == expected


def test_before_the_first_version_there_is_nothing_to_go_back_to(fresh: CoordinatorHome) -> None:
    with pytest.raises(CoordinatorError, match="FA-5007"):
        open_versions(fresh).rollback(3)
    with pytest.raises(CoordinatorError, match="FA-5033"):
        open_versions(fresh).rollback()


def test_a_damaged_version_is_not_gone_back_to(home: CoordinatorHome) -> None:
    versions = open_versions(home)
    publish_next(versions)
    file = release_folder(home.releases, 0) / WEIGHTS
    file.write_bytes(file.read_bytes()[:-1] + b"\x07")
    with pytest.raises(Exception, match="FA-3012"):
        versions.rollback()
    assert versions.current().version == 1


def test_many_at_once_get_a_number_each(home: CoordinatorHome) -> None:
    publish_next(open_versions(home))
    publish_next(open_versions(home))
    rows: list[Model] = []
    threads = [
        threading.Thread(target=lambda: rows.append(open_versions(home).rollback(0))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(row.version for row in rows) == [3, 4, 5, 6, 7, 8]
    for version in range(3, 9):
        assert load_release(release_folder(home.releases, version)).manifest.restores == 0
    assert stages(home.releases) == [(8, 100.0)]
    registry = Registry(home.database)
    evidence.verify(registry, home.root / evidence.HEAD)
    assert check_releases(registry, home.releases, release_keys_ever(home)) == []


ROLL_BACK_AND_DIE_AT_A_STEP = """
import os, signal, sys
from pathlib import Path
from fl_server.home import CoordinatorHome
from fl_server.keyring import ServerKeys, release_keys_ever
from fl_server.registry import Registry
from fl_server.settings import ServerSettings
from fl_server.versions import Versions
from common.settings import load_settings
home, left = CoordinatorHome(Path(sys.argv[1])), int(sys.argv[2])
keys = ServerKeys.load(home, None)
versions = Versions(home, load_settings(ServerSettings, home.config), Registry(home.database), keys)
def count(event, arguments):
    global left
    if event in {"open", "os.mkdir", "os.rename", "os.remove", "fcntl.flock"}:
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(count)
versions.rollback(0)
"""


def test_killed_at_any_step_of_a_publication_the_line_of_versions_is_whole(
    home: CoordinatorHome, tmp_path: Path
) -> None:
    """Each pass dies at a later call to the file system, until one survives."""
    publish_next(open_versions(home))
    outcomes = set()
    for step in range(0, 200, 4):
        place = CoordinatorHome(tmp_path / f"copy-{step}")
        shutil.copytree(home.root, place.root)
        done = subprocess.run(
            [sys.executable, "-c", ROLL_BACK_AND_DIE_AT_A_STEP, str(place.root), str(step)],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            check=False,
        )
        given_before = version_for(None, stages(place.releases))
        versions = open_versions(place)
        newest = versions.current()
        assert newest.version in {1, 2}
        assert given_before is not None
        # What a device may have been given is never taken back.
        assert given_before <= newest.version
        assert stages(place.releases) == [(newest.version, 100.0)]
        assert not list(place.releases.glob(".new-*"))
        assert kinds(place).count("rollback") == newest.version - 1
        outcomes.add((newest.version, done.returncode == 0))
        assert publish_next(versions)[0] == newest.version + 1
        if done.returncode == 0:
            break
    else:
        pytest.fail("the publication never came to its end")
    assert outcomes >= {(1, False), (2, False), (2, True)}


def test_it_is_of_the_algorithm_of_the_version_that_it_brings_back(home: CoordinatorHome) -> None:
    publish_next(open_versions(home))
    settings = SETTINGS.model_copy(update={"recipe": Recipe(algorithm="fedper")})
    personal = Versions(home, settings, Registry(home.database), ServerKeys.load(home, None))
    publish_next(personal)
    row = personal.rollback(1)
    algorithms = [
        load_release(release_folder(home.releases, version)).manifest.algorithm for version in range(4)
    ]
    assert row.version == 3
    assert algorithms == ["fedavg", "fedavg", "fedper", "fedavg"]
