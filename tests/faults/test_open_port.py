"""The public port while peers do to it what can be done to a port: hold it, drip on it, flood it."""

from __future__ import annotations

import http.client
import socket
import ssl
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import psutil
import pytest

from fl_server.door import HEAD_SECONDS, LARGEST_HEAD, MOST_UNGREETED, UNGREETED_PER_ADDRESS
from tests.fl_server.made_front import EnrolledDevice, Front, running_front
from tests.processes import wait_for

PATIENCE = 3 * HEAD_SECONDS


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    with running_front(tmp_path_factory.mktemp("port")) as front:
        front.release_weights(1000)
        yield front


@pytest.fixture(scope="module")
def device(front: Front) -> EnrolledDevice:
    device = front.enrol("kitchen")
    assert device.activate().is_success
    return device


def connect(front: Front) -> socket.socket:
    return socket.create_connection(("127.0.0.1", front.process.port), timeout=PATIENCE)


def silent(front: Front) -> socket.socket:
    """Connects, and says nothing."""
    return connect(front)


def half_a_handshake(front: Front) -> socket.socket:
    """Begins TLS, and goes no further."""
    connection = connect(front)
    connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
    return connection


def no_request(front: Front) -> socket.socket:
    """Speaks TLS, and asks nothing."""
    return front.trust().wrap_socket(connect(front), server_hostname="127.0.0.1")


def half_a_request(front: Front) -> socket.socket:
    """Begins a request, and does not end it."""
    connection = no_request(front)
    connection.sendall(b"POST /v1/fleet/push-object HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-le")
    return connection


def after_an_answer(front: Front) -> socket.socket:
    """Asks once, and keeps the connection."""
    connection = no_request(front)
    connection.sendall(b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
    assert b"200 OK" in connection.recv(1000)
    return connection


HOLDERS = (silent, half_a_handshake, no_request, half_a_request, after_an_answer)


def seconds_until_closed(connection: socket.socket) -> float:
    """How long the other side keeps `connection` open."""
    started = time.monotonic()
    with connection, suppress(ConnectionError, ssl.SSLError):
        while connection.recv(65_536):
            pass
    return time.monotonic() - started


def drip(front: Front, beginning: bytes, drop: bytes) -> float:
    """Send a little now and then, and return how long that is put up with."""
    connection, started = no_request(front), time.monotonic()
    with connection, suppress(ConnectionError, ssl.SSLError):
        connection.sendall(beginning)
        while time.monotonic() - started < PATIENCE:
            connection.sendall(drop)
            time.sleep(0.2)
    return time.monotonic() - started


def test_peers_that_keep_us_waiting_are_let_go(front: Front) -> None:
    head = (b"GET /health HTTP/1.1\r\n", b"x-drip: 1\r\n")
    # A body that no answer waits for is no reason to keep a connection either.
    body = (b"GET /health HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n", b"x")
    with ThreadPoolExecutor(10) as threads:
        waits = [
            *(threads.submit(lambda hold: seconds_until_closed(hold(front)), hold) for hold in HOLDERS),
            *(threads.submit(drip, front, *drops) for drops in (head, body)),
        ]
        for wait in waits:
            assert 0.5 * HEAD_SECONDS < wait.result() < PATIENCE


def test_a_head_without_end_is_cut_off(front: Front) -> None:
    memory = front.process.memory()
    sent = 0
    with no_request(front) as connection, suppress(ConnectionError, ssl.SSLError):
        connection.sendall(b"GET /health HTTP/1.1\r\nx-long: ")
        while sent < 64 << 20:
            connection.sendall(b"y" * 65_536)
            sent += 65_536
    assert sent < 16 << 20
    assert front.process.memory() - memory < 16 << 20


def test_a_long_head_is_refused_and_a_short_one_is_not(front: Front) -> None:
    for size, status in ((LARGEST_HEAD // 2, 200), (LARGEST_HEAD + 1, 431)):
        connection = http.client.HTTPSConnection(
            "127.0.0.1", front.process.port, context=front.trust(), timeout=15
        )
        connection.request("GET", "/health", headers={"x-long": "y" * size})
        assert connection.getresponse().status == status
        connection.close()


GARBAGE = (
    b"\x00" * 1000,
    b"GET\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"POST / HTTP/1.1\r\nx\x00: 1\r\n\r\n",
    b"\r\n" * 500,
)


def test_what_is_not_http_is_not_listened_to_for_long(front: Front, device: EnrolledDevice) -> None:
    connections = [no_request(front) for _ in GARBAGE]
    for connection, garbage in zip(connections, GARBAGE, strict=True):
        connection.sendall(garbage)
    started = time.monotonic()
    for connection in connections:
        seconds_until_closed(connection)
    assert time.monotonic() - started < PATIENCE
    assert device.beat().is_success


def flood(front: Front, beginning: bytes, more: bytes, most: int = 64 << 20) -> int:
    """Send `beginning` and then `more` for as long as the front lets us; return how many bytes that were."""
    sent = 0
    with no_request(front) as connection, suppress(ConnectionError, ssl.SSLError):
        connection.sendall(beginning)
        while sent < most:
            connection.sendall(more)
            sent += len(more)
    return sent


CHUNKED = b"GET /v1/releases?after=999&wait=30 HTTP/1.1\r\nhost: a\r\ntransfer-encoding: %s\r\n\r\n0\r\n"
POLL = b"GET /v1/releases?after=999&wait=30 HTTP/1.1\r\nhost: a\r\n\r\n"
ASK = b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n"


@pytest.mark.parametrize(
    ("beginning", "more"),
    [
        (CHUNKED % b"chunked", b"a: b\r\n" * 10_000),
        (CHUNKED % b"gzip, chunked", b"a: b\r\n" * 10_000),
        (CHUNKED % b"chunked" + b"a: ", b"b" * 65_536),
        (POLL, ASK * 2_000),
        (POLL, POLL * 1_000),
        (b"", ASK * 2_000),
    ],
    ids=["trailers", "trailers-of-two", "a-long-trailer", "ahead-of-a-poll", "polls-ahead", "ahead"],
)
def test_what_no_device_sends_is_not_kept(
    front: Front, device: EnrolledDevice, beginning: bytes, more: bytes
) -> None:
    memory = front.process.memory()
    sent = [flood(front, beginning, more) for _ in range(4)]
    assert max(sent) < 16 << 20, "the rest of it had nowhere to go"
    assert front.process.memory() - memory < 16 << 20
    assert device.beat().is_success


def test_an_answer_that_is_read_at_once_may_be_followed_at_once(front: Front) -> None:
    """A file of whole pieces: its last byte is there before the app has said that it was the last."""
    front.release_weights(4 * 65_536, version=2)
    wait_for(lambda: asks_ok(front, "/v1/releases/2/manifest.json"), "the release")
    with front.web() as web:
        for _ in range(300):
            response = web.get("/v1/releases/2/weights.safetensors")
            assert len(response.content) == 4 * 65_536
            assert web.get("/health").is_success


def test_a_thousand_silent_peers_cost_little_and_an_address_may_have_few(
    front: Front, device: EnrolledDevice
) -> None:
    memory = front.process.memory()
    with ExitStack() as held:
        address = ("127.0.0.1", front.process.port)
        guests = [
            held.enter_context(socket.create_connection(address, PATIENCE, (f"127.0.2.{place}", 0)))
            for place in range(1, 5)
            for _ in range(UNGREETED_PER_ADDRESS + 20)
        ]
        process = psutil.Process(front.process.pid)
        wait_for(lambda: len(open_connections(process)) >= MOST_UNGREETED, "the peers", patience=HEAD_SECONDS)
        assert front.process.memory() - memory < MOST_UNGREETED * 100_000
        wait_for(lambda: sum(map(is_shut, guests)) == 4 * 20, "the end of those above", patience=HEAD_SECONDS)
    wait_for(lambda: device.beat().is_success, "room", patience=HEAD_SECONDS)


def is_shut(connection: socket.socket) -> bool:
    """Whether the other side has closed `connection`."""
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def test_a_hundred_peers_hold_the_port_and_a_device_notices_nothing(
    front: Front, device: EnrolledDevice
) -> None:
    for _ in range(20):
        device.beat()
    alone = statistics.median(timed(device) for _ in range(50))
    process = psutil.Process(front.process.pid)
    with ExitStack() as held:
        peers = [held.enter_context(HOLDERS[number % 5](front)) for number in range(100)]
        wait_for(lambda: len(open_connections(process)) >= 95, "the peers")
        together = [timed(device) for _ in range(50)]
        replies: list[bytes] = []

        def ask() -> None:
            asked = front.fleet.ask(b"plan", "train", 60, bytes(1000), [device.node.node_id])
            replies.extend(bytes(reply.data or b"") for reply in asked)

        round_of_training = threading.Thread(target=ask)
        round_of_training.start()
        started = time.monotonic()
        order = device.await_order()
        device.fetch_all(order)
        device.confirm(order)
        device.answer(order, b"an answer")
        round_of_training.join(timeout=30)
        assert replies == [b"an answer"]
        assert time.monotonic() - started < HEAD_SECONDS
        assert statistics.median(together) < 3 * alone + 0.02
        wait_for(lambda: len(open_connections(process)) < 10, "the peers' end", patience=PATIENCE)
        assert len(peers) == 100


def timed(device: EnrolledDevice) -> float:
    started = time.monotonic()
    assert device.beat().is_success
    return time.monotonic() - started


def open_connections(process: psutil.Process) -> list[object]:
    return [link for link in process.net_connections("tcp") if link.status == "ESTABLISHED"]


def test_a_reader_that_stands_still_does_not_hold_the_memory(front: Front) -> None:
    """Twenty ask for a large release each, and read nothing of it."""
    front.release_weights(50 << 20, version=1)
    wait_for(lambda: asks_ok(front, "/v1/releases/1/manifest.json"), "the release")
    memory = front.process.memory()
    with ExitStack() as held:
        for _ in range(20):
            connection = held.enter_context(no_request(front))
            connection.sendall(b"GET /v1/releases/1/weights.safetensors HTTP/1.1\r\nhost: a\r\n\r\n")
        time.sleep(2)
        assert front.process.memory() - memory < 64 << 20


def asks_ok(front: Front, path: str) -> bool:
    with front.web() as web:
        return web.get(path).is_success
