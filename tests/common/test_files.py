"""Files: whole or not there, and a disk that does not take them is explained."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path
from textwrap import dedent

import pytest

from common import files
from common.files import (
    StorageError,
    is_there,
    locked,
    make_folder,
    read_if_there,
    rename,
    sha256,
    write_atomic,
)


def test_written_data_mode_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "a"
    write_atomic(file, b"one", mode=0o600)
    assert file.read_bytes() == b"one"
    assert file.stat().st_mode & 0o777 == 0o600
    write_atomic(file, b"two")
    assert file.read_bytes() == b"two"
    assert file.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [file]


def test_a_reader_sees_the_old_or_the_new_file_and_never_a_part(tmp_path: Path) -> None:
    file = tmp_path / "a"
    contents = {bytes([letter]) * 200_000 for letter in b"abcdef"}
    write_atomic(file, b"a" * 200_000)
    done = threading.Event()

    def write() -> None:
        for _ in range(5):
            for content in sorted(contents):
                write_atomic(file, content)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while not done.is_set():
        seen.add(file.read_bytes())
    writer.join()
    assert seen <= contents


def test_a_missing_folder_and_a_file_in_its_place_are_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in ("missing", "file"):
        with pytest.raises(StorageError, match="FA-8001") as caught:
            write_atomic(tmp_path / folder / "a", b"x")
        assert caught.value.status == 8
        assert caught.value.remedy
    with pytest.raises(StorageError, match="FA-8001"):
        make_folder(tmp_path / "file" / "b")
    with pytest.raises(StorageError, match="FA-8001"):
        make_folder(tmp_path / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_read_only_folder_is_explained(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StorageError, match="FA-8001"):
            write_atomic(tmp_path / "a", b"x")
        with pytest.raises(StorageError, match="FA-8001"):
            make_folder(tmp_path / "b")
    finally:
        tmp_path.chmod(0o700)


def test_a_full_disk_keeps_the_old_file_and_no_half_of_the_new(tmp_path: Path) -> None:
    file = tmp_path / "a"
    write_atomic(file, b"old")
    # A limit on file size fails a write in the middle, as a full disk does.
    script = dedent("""
        import resource, sys
        from pathlib import Path
        from common.files import StorageError, write_atomic
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            write_atomic(Path(sys.argv[1]), b"x" * 5000)
        except StorageError as error:
            print(error.code)
    """)
    done = subprocess.run(
        [sys.executable, "-c", script, str(file)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "FA-8001"
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_in_the_way_of_a_file_is_explained(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    with pytest.raises(StorageError, match="FA-8001"):
        write_atomic(tmp_path / "a", b"x")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_making_a_folder_twice_is_no_error(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "a" / "b", mode=0o700)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert make_folder(folder) == folder


def test_sha256_is_sha256() -> None:
    assert sha256(b"abc") == hashlib.sha256(b"abc").hexdigest()
    assert sha256(memoryview(b"abc")) == sha256(b"abc")


def synced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """What is given a name and what is brought to the disk, in order: (what, whether it is a folder)."""
    seen = list[tuple[str, bool]]()
    real_sync, real_replace = os.fsync, Path.replace

    def sync(descriptor: int) -> None:
        real_sync(descriptor)
        seen.append(("sync", Path(f"/proc/self/fd/{descriptor}").is_dir()))

    def replace(self: Path, target: Path) -> Path:
        seen.append(("name", False))
        return real_replace(self, target)

    monkeypatch.setattr(files.os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", replace)
    return seen


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="it is told through /proc what is synced")
def test_what_was_written_and_its_name_are_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = synced(monkeypatch)
    write_atomic(tmp_path / "a", b"x")
    assert seen == [("sync", False), ("name", False), ("sync", True)]
    seen.clear()
    rename(tmp_path / "a", tmp_path / "b")
    assert seen == [("name", False), ("sync", True)]
    seen.clear()
    write_atomic(tmp_path / "a", b"x", lasting=False)
    assert seen == [("name", False)]


def test_what_is_not_there_is_another_thing_than_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    assert read_if_there(tmp_path / "file") == b"x"
    assert read_if_there(tmp_path / "none") is None
    assert read_if_there(tmp_path / "file" / "below") is None
    assert not is_there(tmp_path / "file" / "below")
    with pytest.raises(StorageError, match="FA-8001"):
        read_if_there(tmp_path)


def test_a_folder_that_one_may_not_enter_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(self: Path, **_: object) -> os.stat_result:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "stat", denied)
    with pytest.raises(StorageError, match=r"FA-8001.*Permission denied.*user"):
        is_there(tmp_path / "a")


def test_a_lock_is_waited_for_or_not(tmp_path: Path) -> None:
    with locked(tmp_path / ".lock"), pytest.raises(BlockingIOError), locked(tmp_path / ".lock", wait=False):
        pass
    with locked(tmp_path / ".lock", wait=False):
        pass
    with pytest.raises(StorageError, match="FA-8001"), locked(tmp_path / "none" / ".lock"):
        pass
