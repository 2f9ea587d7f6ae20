"""The release feed: what is genuine, newest and whole gets into the store, and nothing else does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.errors import DeviceError, FedAudioError
from common.protocol.enrolment import Refused
from common.protocol.release import (
    GRAPH,
    LARGEST_GRAPH,
    LARGEST_MANIFEST,
    MANIFEST,
    SIGNATURE,
    WEIGHTS,
    Manifest,
    parse_manifest,
)
from common.protocol.signed_release import sign_manifest
from common.protocol.tensors import encode_weights, encoded_size
from common.security.canonical import canonical
from common.security.statement import raw_public
from common.security.trust import Trust
from fl_client import release_feed
from fl_client.connection import Clock, client_to
from fl_client.release_feed import follow_releases
from fl_client.store import ModelStore
from tests.fl_client.listen.made_releases import make_release, resealed_files
from tests.fl_client.made_identity import Authority
from tests.processes import free_port, wait_for

DEVICE = "d0" * 16
AUTHORITY = Authority.make()


@cache
def files_of(version: int) -> dict[str, bytes]:
    """A release of `AUTHORITY` that can be run."""
    return make_release(version, coordinator=AUTHORITY.pin, key=AUTHORITY.release).files


def changed(version: int, key: Ed25519PrivateKey = AUTHORITY.release, **changes: object) -> dict[str, bytes]:
    """As `files_of`, with a manifest that says other things and is signed all the same."""
    manifest = parse_manifest(files_of(version)[MANIFEST])
    text = canonical(Manifest.model_validate(manifest.model_dump() | changes))
    return files_of(version) | {MANIFEST: text, SIGNATURE: sign_manifest(text, key)}


class Coordinator:
    """A server that gives out what a test puts into it, and notes what it was asked for."""

    def __init__(self, port: int = 0, folder: Path | None = None) -> None:
        self.announced: bytes = b""
        self.insists = False
        """Whether it announces also what was not asked for."""
        self.ahead = timedelta()
        """How far its clock is ahead."""
        self.status = 200
        self.bodies: dict[str, bytes | Callable[[], Iterator[bytes]]] = {}
        self.asked: list[str] = []
        self.queries: list[dict[str, list[str]]] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        if folder is not None:
            context = AUTHORITY.server_context(folder)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port: int = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def release(self, files: dict[str, bytes], version: int | None = None) -> None:
        version = parse_manifest(files[MANIFEST]).version if version is None else version
        for name, data in files.items():
            self.bodies[f"/v1/releases/{version}/{name}"] = data
        self.announced = b'{"version":%d}' % version

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def fetched(self, name: str) -> int:
        return sum(path.endswith(f"/{name}") for path in self.asked)

    def _announcement(self, query: dict[str, list[str]]) -> bytes:
        self.queries.append(query)
        after = int(query["after"][0])
        number = self.announced.removeprefix(b'{"version":').removesuffix(b"}")
        old = not self.insists and number.isdigit() and int(number) <= after
        return b"" if old else self.announced

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        coordinator = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"

            def do_GET(self) -> None:
                url = urlsplit(self.path)
                if url.path == "/v1/releases":
                    body: bytes | Callable[[], Iterator[bytes]] = coordinator._announcement(
                        parse_qs(url.query)
                    )
                elif url.path == "/health":
                    body = b'{"time":%r}' % (time.time() + coordinator.ahead.total_seconds())
                else:
                    coordinator.asked.append(url.path)
                    body = coordinator.bodies.get(url.path, b"")
                self.send_response(coordinator.status)
                self.end_headers()
                try:
                    for part in [body] if isinstance(body, bytes) else body():
                        self.wfile.write(part)
                except OSError:
                    pass  # the device has heard enough

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        return Handler


@pytest.fixture
def coordinator() -> Iterator[Coordinator]:
    server = Coordinator()
    yield server
    server.close()


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models", tmp_path / "marks.json")


@contextmanager
def following(
    store: ModelStore,
    port: int,
    trust: Callable[[], Trust] = lambda: AUTHORITY.trust,
    client: httpx.Client | None = None,
    objection: Callable[[], FedAudioError | None] = lambda: None,
) -> Iterator[list[int]]:
    """The feed in a thread, and the sizes of what it has fetched."""
    stop, sizes = threading.Event(), list[int]()
    client = client or client_to(f"127.0.0.1:{port}", None, insecure=True)
    feed = partial(
        follow_releases, client, DEVICE, trust, store, stop, sizes.append, clock=Clock(), objection=objection
    )
    thread = threading.Thread(target=feed, daemon=True)
    thread.start()
    try:
        yield sizes
    finally:
        stop.set()
        thread.join(timeout=60)
        assert not thread.is_alive()
        client.close()


def test_releases_arrive_one_after_the_other(coordinator: Coordinator, store: ModelStore) -> None:
    with following(store, coordinator.port) as sizes:
        coordinator.release(files_of(1))
        wait_for(lambda: store.current_version() == 1, "version 1")
        wait_for(lambda: sum(sizes) > sum(map(len, files_of(1).values())), "its bytes")
        coordinator.release(files_of(2))
        wait_for(lambda: store.current_version() == 2, "version 2")
        wait_for(lambda: coordinator.queries[-1]["after"] == ["2"], "the next question")
    release = store.load(2)
    assert release.graph == files_of(2)[GRAPH]
    assert release.manifest == parse_manifest(files_of(2)[MANIFEST])
    assert (store.root / "00000002" / SIGNATURE).read_bytes() == files_of(2)[SIGNATURE]
    # The graph is the same, so it does not travel again.
    assert [coordinator.fetched(name) for name in (MANIFEST, SIGNATURE, GRAPH, WEIGHTS)] == [2, 2, 1, 2]
    assert coordinator.queries[0] == {"after": ["-1"], "wait": ["20.0"], "device": [DEVICE]}


def test_a_device_that_was_away_takes_the_newest_only(coordinator: Coordinator, store: ModelStore) -> None:
    coordinator.release(files_of(1))
    coordinator.release(files_of(2))
    with following(store, coordinator.port):
        wait_for(lambda: store.current_version() == 2, "version 2")
    assert not any("/1/" in path for path in coordinator.asked)


@pytest.mark.parametrize(
    ("files", "code"),
    [
        (lambda: changed(1, Ed25519PrivateKey.generate()), "FA-3017"),
        (lambda: files_of(1) | {SIGNATURE: files_of(2)[SIGNATURE]}, "FA-3018"),
        (lambda: files_of(1) | {SIGNATURE: b""}, "FA-3016"),
        (lambda: files_of(1) | {SIGNATURE: bytes(77)}, "FA-3013"),
        (lambda: files_of(1) | {MANIFEST: files_of(2)[MANIFEST]}, "FA-3018"),
        (lambda: changed(1, coordinator="ab" * 32), "FA-3042"),
        (lambda: changed(1, expires=datetime.now(UTC) - timedelta(seconds=1)), "FA-3040"),
        (lambda: changed(1, created=datetime.now(UTC) + timedelta(days=2)), "FA-3041"),
        (lambda: changed(1, minimum_client="99.0.0"), "FA-3043"),
    ],
    ids=["key", "signature", "none", "long", "other's", "coordinator", "expired", "future", "client"],
)
def test_what_is_not_genuine_is_refused_before_anything_else_is_fetched(
    files: Callable[[], dict[str, bytes]],
    code: str,
    coordinator: Coordinator,
    store: ModelStore,
    caplog: pytest.LogCaptureFixture,
) -> None:
    coordinator.release(files(), 1)
    with following(store, coordinator.port) as sizes:
        wait_for(lambda: code in caplog.text, code)
    assert coordinator.fetched(WEIGHTS) == coordinator.fetched(GRAPH) == 0
    assert store.current_version() is None
    assert not store.root.exists()
    assert max(sizes) <= len(files_of(1)[MANIFEST]) + 100


def test_a_release_is_what_it_was_announced_as(
    coordinator: Coordinator, store: ModelStore, caplog: pytest.LogCaptureFixture
) -> None:
    coordinator.release(files_of(1), version=8)
    with following(store, coordinator.port):
        wait_for(lambda: "FA-3015" in caplog.text, "a complaint")
    assert store.current_version() is None


def test_an_older_version_is_refused_also_after_the_store_was_lost(
    coordinator: Coordinator, store: ModelStore, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    coordinator.release(files_of(2))
    with following(store, coordinator.port):
        wait_for(lambda: store.current_version() == 2, "version 2")
    store.root.rename(tmp_path / "lost")
    coordinator.release(files_of(1))
    coordinator._announcement = lambda query: b'{"version":1}'  # type: ignore[method-assign]
    with following(store, coordinator.port):
        wait_for(lambda: "FA-3014" in caplog.text, "a complaint")
        assert coordinator.fetched(MANIFEST) == 1
        assert store.current_version() is None
        del coordinator._announcement
        coordinator.release(files_of(2))
        wait_for(lambda: store.current_version() == 2, "version 2 again")


def test_a_key_that_is_not_known_yet_is_asked_for_once(coordinator: Coordinator, store: ModelStore) -> None:
    new = Ed25519PrivateKey.generate()
    coordinator.release(changed(1, new))
    renewed = AUTHORITY.make_trust(serial=2, release=(raw_public(new).hex(),))
    known = [AUTHORITY.trust, renewed]

    def trust() -> Trust:
        return known.pop(0) if len(known) > 1 else known[0]

    with following(store, coordinator.port, trust):
        wait_for(lambda: store.current_version() == 1, "version 1")


def test_a_damaged_file_is_fetched_again_until_it_is_whole(
    coordinator: Coordinator, store: ModelStore, caplog: pytest.LogCaptureFixture
) -> None:
    coordinator.release(files_of(1) | {WEIGHTS: files_of(1)[WEIGHTS][:-1] + b"\x01"})
    with following(store, coordinator.port):
        wait_for(lambda: caplog.text.count("FA-3012") >= 2, "two complaints")
        assert store.current_version() is None
        assert not list(store.root.glob("*/*"))
        coordinator.release(files_of(1))
        wait_for(lambda: store.current_version() == 1, "version 1")


def test_tensors_of_another_version_are_refused(
    coordinator: Coordinator, store: ModelStore, caplog: pytest.LogCaptureFixture
) -> None:
    mixed = dict(make_release(1).release.weights)
    mixed["classify.weight"] = make_release(2).release.weights["classify.weight"]
    coordinator.release(files_of(1) | {WEIGHTS: encode_weights(mixed)})
    with following(store, coordinator.port):
        wait_for(lambda: "FA-3012" in caplog.text, "a complaint")
    assert store.current_version() is None


@pytest.mark.parametrize(
    ("path", "limit"),
    [
        ("/v1/releases/1/manifest.json", LARGEST_MANIFEST),
        ("/v1/releases/1/graph.onnx", LARGEST_GRAPH),
        ("/v1/releases/1/weights.safetensors", None),
    ],
)
def test_a_file_without_end_is_cut_off(
    path: str,
    limit: int | None,
    coordinator: Coordinator,
    store: ModelStore,
    caplog: pytest.LogCaptureFixture,
) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while True:
            sent += 1 << 16
            yield bytes(1 << 16)

    coordinator.release(files_of(1))
    coordinator.bodies[path] = endless
    with following(store, coordinator.port):
        wait_for(lambda: "FA-3013" in caplog.text, "a complaint")
        largest = limit or encoded_size(parse_manifest(files_of(1)[MANIFEST]).schema)
        assert f"{largest} bytes" in caplog.text
    assert store.current_version() is None
    assert not list(store.root.glob("*"))[1:]
    # What the kernel holds for both sides, each time it was tried.
    assert sent < 5 * (largest + (16 << 20))


@pytest.mark.parametrize(
    "announced",
    [
        b"{}",
        b"[]",
        b"null",
        b"7",
        b"\xff",
        b'{"version": null}',
        b'{"version": Infinity}',
        b'{"version": -1}',
        b'{"version": 1e400}',
        b'{"version": 9007199254740993}',
        b"[" * 4000,
    ],
)
def test_a_malformed_announcement_is_one_of_many_tries(
    announced: bytes, coordinator: Coordinator, store: ModelStore, caplog: pytest.LogCaptureFixture
) -> None:
    coordinator.announced = announced
    with following(store, coordinator.port):
        wait_for(lambda: "FA-3014" in caplog.text, "a complaint")
        coordinator.release(files_of(1))
        wait_for(lambda: store.current_version() == 1, "version 1")


def test_a_release_that_this_device_cannot_run_is_refused_and_not_fetched_again(
    coordinator: Coordinator,
    store: ModelStore,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = make_release(2, coordinator=AUTHORITY.pin)
    coordinator.release(files_of(1))
    with following(store, coordinator.port):
        wait_for(lambda: store.current_version() == 1, "version 1")
        coordinator.release(resealed_files(made, graph=b"no graph", key=AUTHORITY.release))
        wait_for(lambda: "FA-4201" in caplog.text, "a complaint")
        asked, questions = len(coordinator.asked), len(coordinator.queries)
        wait_for(lambda: len(coordinator.queries) > questions + 3, "further questions")
        assert len(coordinator.asked) == asked
        assert coordinator.queries[-1]["after"] == ["2"]
        assert store.current_version() == 1
        coordinator.release(files_of(3))
        wait_for(lambda: store.current_version() == 3, "version 3")
    assert caplog.text.count("FA-4201") == 1


def test_a_refused_release_is_tried_again_after_a_while(
    coordinator: Coordinator,
    store: ModelStore,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(release_feed, "REFUSED_SECONDS", 0.0)
    coordinator.release(changed(1, minimum_client="99.0.0"))
    with following(store, coordinator.port):
        wait_for(lambda: caplog.text.count("FA-3043") >= 2, "two refusals")
        coordinator.release(files_of(1))
        wait_for(lambda: store.current_version() == 1, "version 1")


def test_scores_that_do_not_come_out_are_a_refusal(
    coordinator: Coordinator, store: ModelStore, caplog: pytest.LogCaptureFixture
) -> None:
    golden = parse_manifest(files_of(1)[MANIFEST]).golden
    others = tuple(np.roll(golden.scores, 1).tolist())
    coordinator.release(changed(1, golden=golden.model_copy(update={"scores": others})))
    with following(store, coordinator.port):
        wait_for(lambda: "FA-4104" in caplog.text, "a complaint")
    assert store.current_version() is None
    assert not list(store.root.glob("*/*"))


def test_a_version_that_is_there_is_not_taken_again(
    coordinator: Coordinator, store: ModelStore, caplog: pytest.LogCaptureFixture
) -> None:
    coordinator.release(files_of(1))
    with following(store, coordinator.port):
        wait_for(lambda: store.current_version() == 1, "version 1")
        coordinator.release(changed(1, participants=99))
        coordinator._announcement = lambda query: b'{"version":1}'  # type: ignore[method-assign]
        wait_for(lambda: "FA-3014" in caplog.text, "a complaint")
    assert store.load(1).manifest.participants == 0


def test_why_a_device_is_not_served_is_logged_in_words(
    coordinator: Coordinator, store: ModelStore, caplog: pytest.LogCaptureFixture
) -> None:
    coordinator.status = 403
    coordinator.announced = canonical(Refused(code="FA-5048", happened="It was revoked.", remedy="Enrol."))
    with following(store, coordinator.port):
        wait_for(lambda: "FA-5048" in caplog.text, "the reason")
        coordinator.announced = b"?"
        wait_for(lambda: "403" in caplog.text, "a status")


def test_over_tls_another_server_is_not_listened_to(
    store: ModelStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = Coordinator(folder=tmp_path / "tls")
    try:
        server.release(files_of(1))
        address = f"127.0.0.1:{server.port}"
        client = client_to(address, Authority.make().trust, insecure=False)
        with following(store, server.port, client=client) as sizes:
            wait_for(lambda: "certificate" in caplog.text.lower(), "a complaint")
            assert sizes == []
        client = client_to(address, AUTHORITY.trust, insecure=False)
        with following(store, server.port, client=client):
            wait_for(lambda: store.current_version() == 1, "version 1")
    finally:
        server.close()


def test_a_server_that_comes_late_is_found(store: ModelStore, caplog: pytest.LogCaptureFixture) -> None:
    late = free_port()
    with following(store, late):
        wait_for(lambda: "no release" in caplog.text, "a first attempt in vain")
        server = Coordinator(late)
        try:
            server.release(files_of(1))
            wait_for(lambda: store.current_version() == 1, "version 1")
        finally:
            server.close()


class TestTime:
    def test_with_a_wrong_clock_nothing_is_installed(
        self, coordinator: Coordinator, store: ModelStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        coordinator.ahead = timedelta(minutes=20)
        coordinator.release(files_of(1))
        with following(store, coordinator.port):
            wait_for(lambda: "FA-4015" in caplog.text, "the reason")
            assert store.current_version() is None
            assert coordinator.fetched(WEIGHTS) == 0
            coordinator.ahead = timedelta()
            wait_for(lambda: store.current_version() == 1, "version 1")

    def test_what_has_expired_is_a_matter_of_the_coordinators_clock(
        self, coordinator: Coordinator, store: ModelStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        coordinator.ahead = timedelta(minutes=10)
        coordinator.release(changed(1, expires=datetime.now(UTC) + timedelta(minutes=5)))
        with following(store, coordinator.port):
            wait_for(lambda: "FA-3040" in caplog.text, "the reason")
        assert store.current_version() is None


def test_an_announcement_that_nobody_asked_for_is_left_alone(
    coordinator: Coordinator, store: ModelStore, caplog: pytest.LogCaptureFixture
) -> None:
    coordinator.release(files_of(2))
    coordinator.insists = True
    with following(store, coordinator.port):
        wait_for(lambda: "FA-3014" in caplog.text, "the reason")
        assert store.current_version() == 2
        assert coordinator.fetched(MANIFEST) == 1


def test_somebody_elses_certificate_has_its_code_in_the_log(
    tmp_path: Path, store: ModelStore, caplog: pytest.LogCaptureFixture
) -> None:
    server = Coordinator(folder=tmp_path / "tls")
    pinned = client_to(f"127.0.0.1:{server.port}", Authority.make().trust, insecure=False)
    with following(store, server.port, client=pinned):
        wait_for(lambda: "FA-4016" in caplog.text, "the reason")
    server.close()
    with following(store, server.port):
        wait_for(lambda: "FA-4012" in caplog.text, "that nobody answers")


def test_while_the_owner_objects_nothing_is_asked_for(
    coordinator: Coordinator, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release_feed, "OBJECTION_SECONDS", 0.01)
    coordinator.release(files_of(1))
    asked, free = threading.Semaphore(0), threading.Event()

    def objection() -> FedAudioError | None:
        asked.release()
        return None if free.is_set() else DeviceError("FA-4042", "Metered.", "Wait.")

    with following(store, coordinator.port, objection=objection):
        for _ in range(5):
            assert asked.acquire(timeout=30)
        assert coordinator.queries == []
        free.set()
        wait_for(lambda: store.current_version() == 1, "version 1")
