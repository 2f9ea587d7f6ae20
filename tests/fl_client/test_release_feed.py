"""The release feed against a real front: newest first, whole or not at all, whatever the network does."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from common.protocol.release import GRAPH, MANIFEST, WEIGHTS
from common.security.certificates import make_certificate
from fl_client.release_feed import follow_releases
from fl_client.store import ModelStore
from fl_server.front_process import FrontProcess
from fl_server.home import CoordinatorHome
from fl_server.initialise import initialise
from fl_server.releases import point_to, release_folder, store_release
from fl_server.settings import ServerSettings
from tests.fl_client.listen.made_releases import make_release, make_task
from tests.processes import free_port, wait_for


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> CoordinatorHome:
    home = CoordinatorHome(tmp_path_factory.mktemp("server"))
    initialise(home, ServerSettings(task=make_task()), names=["127.0.0.1"])
    home.releases.mkdir()
    return home


@pytest.fixture(scope="module")
def front(server: CoordinatorHome) -> Iterator[FrontProcess]:
    with FrontProcess(server, ServerSettings(port=0, task=make_task())) as front:
        yield front


@contextmanager
def following(port: int, ca: bytes, store: ModelStore) -> Iterator[list[int]]:
    """The feed in a thread, and the sizes of what it has fetched."""
    stop, sizes = threading.Event(), list[int]()
    arguments = (f"127.0.0.1:{port}", ca, store, stop, sizes.append)
    # It may be in the middle of a question of 20 seconds when the test is over.
    threading.Thread(target=follow_releases, args=arguments, daemon=True).start()
    try:
        yield sizes
    finally:
        stop.set()


def publish(
    server: CoordinatorHome, version: int, front: FrontProcess | None = None, *, damaged: bool = False
) -> dict[str, bytes]:
    """Release `version`; return when `front` knows of it, for it looks only a few times a second."""
    files = make_release(version).files
    folder = store_release(server.releases, version, files)
    if damaged:
        (folder / WEIGHTS).write_bytes(files[WEIGHTS][:-1] + b"\x01")
    point_to(server.releases, version)
    if front is not None:
        trust = ssl.create_default_context(cadata=server.certificate.read_text())
        newest = f"https://127.0.0.1:{front.port}/v1/releases?after={version - 1}&wait=30"
        answer = httpx.get(newest, verify=trust, trust_env=False, timeout=60)
        assert answer.json() == {"version": version}
    return files


def test_releases_arrive_one_after_the_other(
    server: CoordinatorHome, front: FrontProcess, tmp_path: Path
) -> None:
    store = ModelStore(tmp_path / "models")
    with following(front.port, server.certificate.read_bytes(), store) as sizes:
        first = publish(server, 1)
        wait_for(lambda: store.current_version() == 1, "version 1")
        wait_for(lambda: sum(sizes) == sum(map(len, first.values())), "its bytes")
        second = publish(server, 2)
        wait_for(lambda: store.current_version() == 2, "version 2")
        # The graph is the same, so it does not travel again.
        fetched = len(second[MANIFEST]) + len(second[WEIGHTS])
        wait_for(lambda: sum(sizes[3:]) == fetched, "its bytes")
    release = store.load(2)
    assert release.graph == second[GRAPH]
    assert release.manifest == make_release(2).release.manifest


def test_a_device_that_was_away_takes_the_newest_only(
    server: CoordinatorHome, front: FrontProcess, tmp_path: Path
) -> None:
    publish(server, 3)
    publish(server, 4, front)
    store = ModelStore(tmp_path / "models")
    with following(front.port, server.certificate.read_bytes(), store) as sizes:
        wait_for(lambda: store.current_version() == 4, "version 4")
    assert len(sizes) == 3


def test_a_damaged_release_is_not_installed_and_the_next_attempt_is(
    server: CoordinatorHome, front: FrontProcess, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = publish(server, 5, front, damaged=True)
    store = ModelStore(tmp_path / "models")
    with following(front.port, server.certificate.read_bytes(), store):
        wait_for(lambda: "FA-3012" in caplog.text, "a complaint")
        assert store.current_version() is None
        (release_folder(server.releases, 5) / WEIGHTS).write_bytes(files[WEIGHTS])
        wait_for(lambda: store.current_version() == 5, "version 5")


def test_another_server_is_not_listened_to(
    server: CoordinatorHome, front: FrontProcess, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish(server, 6)
    other, _ = make_certificate(["127.0.0.1"])
    store = ModelStore(tmp_path / "models")
    with following(front.port, other, store) as sizes:
        wait_for(lambda: "certificate" in caplog.text.lower(), "a complaint")
        assert sizes == []
    assert store.current_version() is None


def test_a_server_that_comes_late_is_found(
    server: CoordinatorHome, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish(server, 7)
    late = free_port()
    store = ModelStore(tmp_path / "models")
    with following(late, server.certificate.read_bytes(), store):
        wait_for(lambda: "no release" in caplog.text, "a first attempt in vain")
        with FrontProcess(server, ServerSettings(port=late, task=make_task())):
            wait_for(lambda: store.current_version() == 7, "version 7")
    assert store.load(7).version == 7
