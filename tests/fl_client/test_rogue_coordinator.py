"""A coordinator that answers, but not as it should: the device complains, and takes up where it was."""

from __future__ import annotations

import re
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from flwr.proto.fleet_pb2 import ActivateNodeResponse, PullMessagesResponse, RegisterNodeFleetResponse
from flwr.proto.message_pb2 import Message, Metadata, ObjectTree, PullObjectResponse
from flwr.proto.recorddict_pb2 import RecordDict

from common.protocol.release import MANIFEST
from common.security.certificates import make_certificate
from fl_client import link
from fl_client.home import DeviceHome
from fl_client.link import FleetLink, LinkLostError
from fl_client.release_feed import follow_releases
from fl_client.store import ModelStore
from tests.fl_client.listen.made_releases import make_release
from tests.processes import wait_for

Answers = Mapping[str, Callable[[], bytes]]
"""What is answered to a path; anything else is an empty 200."""


@contextmanager
def serving(answers: Answers, certificate: tuple[Path, Path] | None = None) -> Iterator[str]:
    """The address of a server that gives `answers`, over TLS if it has a certificate."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            body = answers.get(self.path.split("?")[0], bytes)()
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    paths = tmp_path / "tls.crt", tmp_path / "tls.key"
    for path, data in zip(paths, make_certificate(["127.0.0.1"]), strict=True):
        path.write_bytes(data)
    return paths


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
        b"[" * 100_000,
    ],
)
def test_a_malformed_announcement_is_one_of_many_tries(
    announced: bytes,
    certificate: tuple[Path, Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    files = make_release(1).files
    now = [announced]
    answers: dict[str, Callable[[], bytes]] = {"/v1/releases": lambda: now[0]}
    answers |= {f"/v1/releases/1/{name}": lambda data=data: data for name, data in files.items()}  # type: ignore[misc]
    store, stop = ModelStore(tmp_path / "models"), threading.Event()
    with serving(answers, certificate) as address:
        arguments = (address, certificate[0].read_bytes(), store, stop, lambda size: None)
        feed = threading.Thread(target=follow_releases, args=arguments, daemon=True)
        feed.start()
        wait_for(lambda: "FA-3014" in caplog.text, "a complaint")
        now[0] = b'{"version": 1}'
        wait_for(lambda: store.current_version() == 1, "version 1")
        stop.set()
        now[0] = b""
        feed.join(timeout=30)


def test_a_release_is_what_it_was_announced_as(
    certificate: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = make_release(7).files
    answers: dict[str, Callable[[], bytes]] = {"/v1/releases": lambda: b'{"version": 8}'}
    answers |= {f"/v1/releases/8/{name}": lambda data=data: data for name, data in files.items()}  # type: ignore[misc]
    store, stop, sizes = ModelStore(tmp_path / "models"), threading.Event(), list[int]()
    with serving(answers, certificate) as address:
        arguments = (address, certificate[0].read_bytes(), store, stop, sizes.append)
        threading.Thread(target=follow_releases, args=arguments, daemon=True).start()
        wait_for(lambda: "FA-3015" in caplog.text, "a complaint")
        stop.set()
    assert store.current_version() is None
    assert set(sizes) == {len(files[MANIFEST])}


def test_a_message_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "LARGEST_MESSAGE", 3_000_000)
    metadata = Metadata(run_id=1, message_id="0" * 64, dst_node_id=1, message_type="train", ttl=60)
    message = Message(metadata=metadata, content=RecordDict())
    parts = [ObjectTree(object_id=f"{number:064x}") for number in range(1000)]
    tree = ObjectTree(object_id="0" * 64, children=parts)
    pulled = 0

    part = PullObjectResponse(object_found=True, object_available=True, object_content=bytes(1_000_000))

    def pull() -> bytes:
        nonlocal pulled
        pulled += 1
        return bytes(part.SerializeToString())

    announced = PullMessagesResponse(messages_list=[message], message_object_trees=[tree])
    answers: Answers = {
        "/v1/fleet/register-node": RegisterNodeFleetResponse().SerializeToString,
        "/v1/fleet/activate-node": ActivateNodeResponse(node_id=1).SerializeToString,
        "/v1/fleet/pull-messages": announced.SerializeToString,
        "/v1/fleet/pull-object": pull,
    }
    with (
        serving(answers) as address,
        FleetLink(address, None) as linked,
        pytest.raises(LinkLostError, match="more than"),
    ):
        linked.receive()
    assert pulled == 4


def test_half_a_link_ends_so_that_a_whole_one_can_be_started(device: DeviceHome) -> None:
    # A fault that nobody foresaw stands for all of them.
    script = (
        "import sys; from fl_client import link_process\n"
        "link_process.follow_releases = lambda *_: 1 / 0\n"
        "link_process.main()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(device.root)], stdin=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        log = process.stderr.read().decode()
        assert process.wait() == 1
    assert re.search("a part of the link has failed.*ZeroDivisionError", log, re.DOTALL)
