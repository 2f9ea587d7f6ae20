"""The model store, whatever is done to it."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import DeviceError, ProtocolError
from common.files import StorageError
from common.protocol.release import GRAPH, MANIFEST, WEIGHTS
from fl_client.listen.trials import Trials
from fl_client.marks import read_marks
from fl_client.store import KEPT, ModelStore
from tests.made_manifests import COORDINATOR, put, small_release, small_weights


def files_of(version: int, note: str = "") -> dict[str, bytes]:
    """A release that belongs together; its graph is never run here."""
    return small_release(version, f"graph {note}".encode() * 1000)


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return store_in(tmp_path / "home")


def store_in(home: Path) -> ModelStore:
    return ModelStore(home / "models", home / "marks.json")


def version_of(store: ModelStore) -> int | None:
    release = store.load_current()
    return None if release is None else release.version


def test_before_the_first_release_there_is_none(store: ModelStore) -> None:
    assert store.current_version() is None
    assert store.load_current() is None
    assert store.stamp() is None


def test_what_was_installed_is_what_is_loaded(store: ModelStore) -> None:
    given_back = put(store, files_of(3))
    again = ModelStore(store.root).load_current()
    assert again is not None
    assert store.current_version() == again.version == given_back.version == 3
    assert again.manifest == given_back.manifest
    np.testing.assert_array_equal(again.weights["w"], small_weights(3)["w"])
    assert again.graph == files_of(3)[GRAPH]
    assert sorted(entry.name for entry in store.root.iterdir()) == [".lock", "00000003", "current"]


@given(offered=st.lists(st.integers(0, 12), min_size=1, max_size=12))
@settings(max_examples=25, deadline=None)
def test_versions_only_rise_and_the_last_ones_are_kept(
    offered: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = store_in(tmp_path_factory.mktemp("home"))
    taken: list[int] = []
    for version in offered:
        if taken and version < taken[-1]:
            with pytest.raises(DeviceError, match="FA-4101"):
                put(store, files_of(version))
        else:
            put(store, files_of(version))
            taken = taken if version in taken else [*taken, version]
        assert store.current_version() == version_of(store) == taken[-1]
    kept = [release.version for release in store.newest_first()]
    assert kept == taken[: -KEPT - 1 : -1]


def test_two_releases_of_one_version_are_an_error_and_the_first_stays(store: ModelStore) -> None:
    put(store, files_of(1))
    with pytest.raises(DeviceError, match="FA-4102"):
        put(store, files_of(1, "another"))
    release = store.load_current()
    assert release is not None
    assert release.graph == files_of(1)[GRAPH]


def test_files_that_do_not_belong_together_leave_no_trace(store: ModelStore) -> None:
    put(store, files_of(1))
    before = sorted(store.root.rglob("*"))
    with pytest.raises(ProtocolError, match="FA-3012"):
        put(store, files_of(2) | {GRAPH: b"another graph"})
    assert sorted(store.root.rglob("*")) == before
    assert version_of(store) == 1


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [cut_short, flip_a_bit, Path.unlink])
@pytest.mark.parametrize("name", [MANIFEST, WEIGHTS, GRAPH])
def test_a_damaged_release_gives_way_to_the_one_before_and_can_be_repaired(
    name: str, damage: Callable[[Path], None], store: ModelStore, caplog: pytest.LogCaptureFixture
) -> None:
    put(store, files_of(1))
    put(store, files_of(2))
    damage(store.root / "00000002" / name)
    if name == MANIFEST and damage is flip_a_bit:
        (store.root / "00000002" / name).write_bytes(b"{}")  # a flipped bit may make another manifest
    assert version_of(store) == 1
    assert "version 2" in caplog.text
    damaged = store.stamp()
    put(store, files_of(2))
    assert version_of(store) == 2
    assert store.stamp() != damaged


def test_with_every_release_damaged_there_is_none(store: ModelStore) -> None:
    for version in (1, 2, 3):
        put(store, files_of(version))
        (store.root / f"{version:08d}" / GRAPH).write_bytes(b"")
    assert store.load_current() is None


@pytest.mark.parametrize("pointer", [b"", b"\x00\x00", b"two"])
def test_a_pointer_lost_to_the_disk_means_the_newest_release(pointer: bytes, store: ModelStore) -> None:
    put(store, files_of(1))
    put(store, files_of(2))
    (store.root / "current").write_bytes(pointer)
    assert store.current_version() == version_of(store) == 2
    with pytest.raises(DeviceError, match="FA-4101"):
        put(store, files_of(1))


def test_every_state_a_crash_can_leave_is_whole(store: ModelStore) -> None:
    """`install` step by step: temporary folder, its files one by one, the folder's name, the pointer."""
    put(store, files_of(1))
    half = store.root / ".new-abc"
    half.mkdir()
    for name in (None, MANIFEST, WEIGHTS, GRAPH):
        if name is not None:
            (half / f".{name}.tmp").write_bytes(files_of(2)[name][:7])
            assert version_of(store) == 1
            (half / name).write_bytes(files_of(2)[name])
        assert version_of(store) == 1
    half.rename(store.root / "00000002")  # named, but not pointed to
    assert version_of(store) == 1
    (store.root / ".current.tmp").write_bytes(b"2")
    assert version_of(store) == 1
    put(store, files_of(2))
    assert version_of(store) == 2


def test_what_a_crash_left_is_cleared_away(store: ModelStore) -> None:
    put(store, files_of(1))
    (store.root / ".new-abc").mkdir()
    (store.root / ".new-abc" / MANIFEST).write_bytes(b"{")
    put(store, files_of(2))
    assert not list(store.root.glob(".new-*"))


ROOT = Path(__file__).resolve().parents[2]


def run(code: str, *arguments: str) -> subprocess.Popen[str]:
    """`code` in a child process that can import what this one can."""
    where = os.pathsep.join([str(ROOT), *sys.path])
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": where},
    )


INSTALL_ON_AND_ON = """
import itertools, sys
from pathlib import Path
from fl_client.store import ModelStore
from tests.made_manifests import put, small_release
home = Path(sys.argv[1])
store = ModelStore(home / "models", home / "marks.json")
for version in itertools.count(int(sys.argv[2])):
    put(store, small_release(version))
    print(version, flush=True)
"""


def test_kill_9_at_any_moment_leaves_a_whole_store(store: ModelStore) -> None:
    installed = 0
    for pause in (0, 1, 2, 5, 9):
        child = run(INSTALL_ON_AND_ON, str(store.root.parent), str(installed + 1))
        assert child.stdout is not None
        for line in itertools.islice(child.stdout, pause + 1):
            installed = int(line)
        child.send_signal(signal.SIGKILL)  # somewhere within the next install
        rest = child.stdout.read().split()
        child.wait()
        child.stdout.close()
        installed = max([installed, *map(int, rest)])
        current = version_of(store)
        # The last one may have been made current without living to say so.
        assert current in {installed, installed + 1}
        assert current == store.current_version()
        installed = current


def test_readers_always_find_a_whole_release_while_one_writes(store: ModelStore) -> None:
    put(store, files_of(0))
    child = run(INSTALL_ON_AND_ON, str(store.root.parent), "1")
    try:
        last = 0
        while last < 25:
            release = store.load_current()
            if release is None:  # overtaken by more than what is kept: the next look finds it
                continue
            assert release.version >= last
            assert (release.weights["b"] == -release.version).all()
            last = release.version
    finally:
        child.kill()
        child.communicate()
    assert last >= 25


INSTALL_ON_A_FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from common.files import StorageError
from fl_client.store import ModelStore
from tests.made_manifests import put, small_release
home = Path(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
try:
    put(ModelStore(home / "models", home / "marks.json"), small_release(2))
except StorageError as error:
    print(error.code)
"""


@pytest.mark.parametrize("room", [0, 1, 500, 3000])
def test_a_full_disk_is_a_storage_error_and_the_old_release_stays(room: int, store: ModelStore) -> None:
    put(store, files_of(1))
    child = run(INSTALL_ON_A_FULL_DISK, str(store.root.parent), str(room))
    assert child.communicate()[0].strip() == "FA-8001"
    assert version_of(store) == 1
    assert sorted(entry.name for entry in store.root.iterdir()) == [".lock", "00000001", "current"]
    put(store, files_of(2))
    assert version_of(store) == 2


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="FA-8001"):
        put(store_in(tmp_path / "file"), files_of(1))


def test_a_folder_that_may_not_be_written_is_a_storage_error() -> None:
    with pytest.raises(StorageError, match="FA-8001"):
        put(store_in(Path("/proc/self")), files_of(1))


def test_a_stamp_tells_every_install_from_the_one_before(store: ModelStore) -> None:
    stamps = [put(store, files_of(version)) and store.stamp() for version in range(20)]
    assert all(one != other for one, other in itertools.pairwise(stamps))
    assert store.stamp() == store.stamp()


def test_removed_folders_of_old_versions_do_not_matter(store: ModelStore) -> None:
    put(store, files_of(1))
    put(store, files_of(2))
    shutil.rmtree(store.root / "00000001")
    assert [release.version for release in store.newest_first()] == [2]


def test_an_older_release_stays_out_though_the_folder_was_lost(store: ModelStore) -> None:
    put(store, files_of(7))
    shutil.rmtree(store.root)
    assert store.current_version() is None
    with pytest.raises(DeviceError, match=r"FA-4101.*version 7"):
        put(store, files_of(6))
    assert store.wanted_after() == 6
    put(store, files_of(7))
    assert version_of(store) == store.wanted_after() == 7


def test_an_older_release_stays_out_though_the_folder_is_an_old_copy(
    store: ModelStore, tmp_path: Path
) -> None:
    put(store, files_of(3))
    shutil.copytree(store.root, tmp_path / "backup")
    put(store, files_of(7))
    shutil.rmtree(store.root)
    (tmp_path / "backup").rename(store.root)
    assert version_of(store) == 3
    for version in (3, 4, 6):
        with pytest.raises(DeviceError, match="FA-4101"):
            put(store, files_of(version))
    assert store.wanted_after() == 6
    put(store, files_of(8))
    assert version_of(store) == store.wanted_after() == 8


def test_a_release_that_does_not_become_current_raises_no_mark(store: ModelStore) -> None:
    with store.receiving() as folder:
        for name, data in files_of(9).items():
            (folder / name).write_bytes(data)
    assert list(store.root.glob("[.0]*")) == [store.root / ".lock"]
    with pytest.raises(ProtocolError, match="FA-3012"):
        put(store, files_of(9) | {WEIGHTS: b""})
    put(store, files_of(1))
    assert version_of(store) == 1


def test_damaged_marks_let_nothing_in(store: ModelStore) -> None:
    put(store, files_of(1))
    (store.root.parent / "marks.json").write_bytes(b"{}")
    with pytest.raises(DeviceError, match="FA-4008"):
        put(store, files_of(2))
    assert version_of(store) == 1


def test_a_store_of_another_coordinators_models_is_begun_anew(store: ModelStore) -> None:
    """The device was enrolled anew: its marks are fresh, the folder is not."""
    for version in (0, 1, 2, 9):
        put(store, small_release(version, coordinator="ab" * 32))
    (store.root.parent / "marks.json").unlink()
    assert store.wanted_after() == -1
    put(store, files_of(1))
    release = store.load_current()
    assert release is not None
    assert (release.version, release.manifest.coordinator) == (1, COORDINATOR)
    put(store, files_of(2))
    assert version_of(store) == 2


def test_without_marks_nothing_is_installed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="marks"):
        put(ModelStore(tmp_path / "models"), files_of(1))


INSTALL_AND_DIE_AT_A_STEP = """
import os, signal, sys
from pathlib import Path
from fl_client.store import ModelStore
from tests.made_manifests import put, small_release
home, left = Path(sys.argv[1]), int(sys.argv[2])
store, files = ModelStore(home / "models", home / "marks.json"), small_release(2)
STEPS = {"open", "os.mkdir", "os.rename", "os.chmod", "os.remove", "os.rmdir", "fcntl.flock"}
def count(event, arguments):
    global left
    if event in STEPS:
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(count)
put(store, files)
"""


def test_killed_at_any_step_the_store_is_whole_and_the_mark_is_never_behind(tmp_path: Path) -> None:
    """Each pass dies at a later call to the file system, until one survives."""
    deaths, raised_before_pointed = 0, False
    for step in range(0, 200, 2):
        store = store_in(tmp_path / str(step))
        put(store, files_of(1))
        child = run(INSTALL_AND_DIE_AT_A_STEP, str(store.root.parent), str(step))
        child.communicate()
        current = version_of(store)
        mark = read_marks(store.root.parent / "marks.json").release - 1
        assert current == store.current_version()
        assert current in {1, 2}
        assert mark >= current
        raised_before_pointed |= mark > current
        put(store, small_release(2))
        assert version_of(store) == 2
        assert not list(store.root.glob(".new-*"))
        with pytest.raises(DeviceError, match="FA-4101"):
            put(store, files_of(1))
        if child.returncode == 0:
            break
        deaths += 1
    else:
        pytest.fail("the installation never came to its end")
    assert deaths >= 8
    assert raised_before_pointed


@pytest.mark.parametrize("name", [MANIFEST, WEIGHTS, GRAPH])
def test_a_file_whose_end_a_power_cut_has_lost_is_found_and_fetched_again(
    name: str, store: ModelStore
) -> None:
    put(store, files_of(1))
    put(store, files_of(2))
    path = store.root / "00000002" / name
    for length in (0, 1, path.stat().st_size // 2, path.stat().st_size - 1):
        os.truncate(path, length)
        assert version_of(store) == 1
        assert store.wanted_after() == 1
        put(store, files_of(2))
        assert version_of(store) == store.wanted_after() == 2


def test_what_has_proved_itself_or_is_being_tried_is_kept(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models", tmp_path / "marks.json", tmp_path / "trial.json")
    trials = Trials(tmp_path / "trial.json")
    for version in range(1, 4):
        release = put(store, small_release(version))
        if version == 1:
            trials.settle(release, proved=True, shadowed=False)
        if version == 2:
            trials.settle(release, proved=False, shadowed=False)
    for version in range(4, 9):
        put(store, small_release(version))
    assert sorted(path.name for path in store.root.glob("0*")) == [f"{n:08d}" for n in (1, 2, 6, 7, 8)]
    trials.end()
    put(store, small_release(9))
    assert sorted(path.name for path in store.root.glob("0*")) == [f"{n:08d}" for n in (1, 7, 8, 9)]
