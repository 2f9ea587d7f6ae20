"""Sound over a WebSocket: whose, how much of it, and what happens when it stops."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.sync.client import ClientConnection, connect

from common.errors import DeviceError
from fl_client.listen.sources import Block, Source, open_source, websocket
from fl_client.listen.sources.backlog import BACKLOG
from tests.processes import ROOT, free_port, wait_for

Sound = NDArray[np.int16]


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def source(port: int) -> Iterator[Source]:
    with open_source(f"ws:127.0.0.1:{port}") as source:
        yield source


def sender(port: int, **options: object) -> ClientConnection:
    return connect(f"ws://127.0.0.1:{port}/", compression=None, **options)  # type: ignore[arg-type]


def noise(count: int, seed: int = 1) -> Sound:
    return np.random.default_rng(seed).integers(-30000, 30000, count).astype("<i2")


def take(source: Source, count: int) -> Block:
    """Read until `count` samples have come or were lost: all of it as one block."""
    blocks: list[Block] = []

    def enough() -> bool:
        block = source.read()
        assert block is not None
        blocks.append(block)
        return sum(len(one.samples) + one.lost for one in blocks) >= count

    wait_for(enough, f"{count} samples")
    samples = np.concatenate([one.samples for one in blocks])
    return Block(samples, sum(one.lost for one in blocks), sum(one.overruns for one in blocks))


def test_what_is_sent_is_heard_however_it_is_cut(source: Source, port: int) -> None:
    sound = noise(20_001)
    data = sound.tobytes()
    with sender(port) as peer:
        for start in range(0, len(data), 3333):  # odd: samples lie across messages
            peer.send(data[start : start + 3333])
        peer.send(iter([data[:5], data[5:6], data[6:100]]))  # one message in fragments
        heard = take(source, len(sound) + 50)
    expected = np.concatenate([sound, sound[:50]]).astype(np.float32) / 32768
    np.testing.assert_array_equal(heard.samples, expected)
    assert (heard.lost, heard.overruns) == (0, 0)


def test_a_sender_that_goes_and_comes_does_not_end_the_sound_and_is_an_overrun(
    source: Source, port: int
) -> None:
    for number in range(3):
        with sender(port) as peer:
            peer.send(noise(500, number).tobytes() + b"\x01")  # half a sample does not reach the next sender
            heard = take(source, 500)
        np.testing.assert_array_equal(heard.samples, noise(500, number).astype(np.float32) / 32768)
        assert heard.overruns == (number > 0)
    block = source.read()
    assert block is not None
    assert len(block.samples) == 0


def test_what_comes_faster_than_it_is_read_pushes_the_oldest_out_and_is_counted(
    source: Source, port: int
) -> None:
    sound = noise(BACKLOG + 9000)
    with sender(port) as peer:
        for start in range(0, len(sound), 9000):
            peer.send(sound[start : start + 9000].tobytes())
        peer.ping().wait(30)  # answered after all that was sent before was taken
    heard = take(source, len(sound))
    assert (heard.lost, heard.overruns) == (9000, 1)
    np.testing.assert_array_equal(heard.samples, sound[9000:].astype(np.float32) / 32768)


def test_web_pages_and_those_without_the_token_are_refused(tmp_path: Path, port: int) -> None:
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text("secret")
    with open_source(f"ws:127.0.0.1:{port}", token) as source:
        for options, status in (
            ({}, 401),
            ({"subprotocols": ["fedaudio", "fedaudio.wrong"]}, 401),
            ({"origin": "https://evil.com"}, 403),
            ({"additional_headers": {"Authorization": "Bearer secret"}, "origin": "null"}, 403),
        ):
            with pytest.raises(InvalidStatus) as caught:
                sender(port, **options)
            assert caught.value.response.status_code == status
        with sender(port, subprotocols=["fedaudio", "fedaudio.secret"]) as peer:
            assert peer.subprotocol == "fedaudio"
            peer.send(noise(10).tobytes())
            assert len(take(source, 10).samples) == 10


def test_another_address_needs_a_token(tmp_path: Path, port: int) -> None:
    with pytest.raises(DeviceError, match="FA-4230"), open_source(f"ws:0.0.0.0:{port}", tmp_path / "none"):
        pass


def test_an_address_of_this_machine_is_no_name_of_somebody_elses_choosing(tmp_path: Path, port: int) -> None:
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text("secret")
    bearer = {"Authorization": "Bearer secret"}
    with open_source(f"ws:0.0.0.0:{port}", token):
        # All of 127.0.0.0/8 is this machine.
        with connect(f"ws://127.0.0.2:{port}/", additional_headers=bearer):
            pass
        with (
            socket.create_connection(("127.0.0.2", port)) as peer,
            pytest.raises(InvalidStatus),
            connect(f"ws://127.0.0.3:{port}/", additional_headers=bearer, sock=peer),
        ):
            pass


@pytest.mark.parametrize(
    ("message", "code"), [("text", websocket.UNSUPPORTED), (bytes(websocket.LARGEST_MESSAGE + 2), 1009)]
)
def test_what_is_no_sound_ends_its_sender(source: Source, port: int, message: str | bytes, code: int) -> None:
    with sender(port) as peer:
        peer.send(message)
        with pytest.raises(ConnectionClosed):
            peer.recv(timeout=30)
        assert peer.close_code == code
    with sender(port) as peer:
        peer.send(noise(10).tobytes())
        assert len(take(source, 10).samples) == 10


def test_who_says_nothing_makes_room_for_another(
    source: Source, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "HANDSHAKE_SECONDS", 0.5)
    monkeypatch.setattr(websocket, "QUIET_SECONDS", 0.5)
    with socket.create_connection(("127.0.0.1", port)) as mute, sender(port) as quiet:
        mute.sendall(b"GET / HTTP/1.1\r\n")
        with pytest.raises(ConnectionClosed):
            quiet.recv(timeout=30)
        with sender(port) as peer:
            peer.send(noise(10).tobytes())
            assert len(take(source, 10).samples) == 10


def test_mute_peers_keep_nobody_out_however_many_they_are(
    source: Source, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "HANDSHAKE_SECONDS", 3600)
    with ExitStack() as crowd:
        for _ in range(3 * websocket.MOST_SENDERS):
            crowd.enter_context(socket.create_connection(("127.0.0.1", port)))
        with sender(port, open_timeout=60) as peer:
            peer.send(noise(10).tobytes())
            assert len(take(source, 10).samples) == 10


def test_mute_peers_do_not_cut_off_the_one_that_is_heard(source: Source, port: int) -> None:
    with sender(port) as peer, ExitStack() as crowd:
        peer.send(noise(10).tobytes())
        take(source, 10)
        for _ in range(3 * websocket.MOST_SENDERS):
            crowd.enter_context(socket.create_connection(("127.0.0.1", port)))
        with pytest.raises(InvalidStatus):  # answered after all of them were let in
            sender(port, origin="https://evil.com", open_timeout=60)
        peer.send(noise(10, 2).tobytes())
        np.testing.assert_array_equal(take(source, 10).samples, noise(10, 2).astype(np.float32) / 32768)


def test_a_second_sender_is_answered_when_the_first_has_gone(source: Source, port: int) -> None:
    with ThreadPoolExecutor(1) as threads:
        with sender(port) as first:
            first.send(noise(10).tobytes())
            take(source, 10)
            second = threads.submit(sender, port, open_timeout=60)
            with pytest.raises(InvalidStatus):
                sender(port, origin="https://evil.com", open_timeout=60)
            assert not second.done()
        with second.result(60) as peer:
            peer.send(noise(10, 2).tobytes())
            heard = take(source, 10)
    np.testing.assert_array_equal(heard.samples, noise(10, 2).astype(np.float32) / 32768)
    assert heard.overruns == 1


def test_sound_that_comes_with_a_request_that_is_refused_is_not_heard(source: Source, port: int) -> None:
    request = (
        f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nOrigin: https://evil.com\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: {'A' * 22}==\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port)) as peer, suppress(OSError):
        peer.sendall(request.encode() + Frame(Opcode.BINARY, noise(10).tobytes()).serialize(mask=True))
        peer.settimeout(30)
        while peer.recv(1 << 16):
            pass
    with sender(port) as other:
        other.send(noise(7, 2).tobytes())
        heard = take(source, 7)
    np.testing.assert_array_equal(heard.samples, noise(7, 2).astype(np.float32) / 32768)


def test_who_sends_empty_messages_makes_room_for_another(
    source: Source, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "QUIET_SECONDS", 0.5)
    with sender(port) as empty:
        empty.send(noise(10).tobytes())
        take(source, 10)

        def is_closed() -> bool:
            empty.send(b"")
            return False

        with pytest.raises(ConnectionClosed):
            wait_for(is_closed, "the end of its patience", patience=30)


def test_nothing_of_a_refused_message_is_heard(source: Source, port: int) -> None:
    with sender(port) as peer:
        frames = (
            Frame(Opcode.TEXT, b"te", fin=False),
            Frame(Opcode.CONT, noise(10).tobytes()),
            Frame(Opcode.BINARY, noise(10).tobytes()),
        )
        # In one piece, so that they are taken together.
        peer.socket.sendall(b"".join(frame.serialize(mask=True) for frame in frames))
        with pytest.raises(ConnectionClosed):
            peer.recv(timeout=30)
        assert peer.close_code == websocket.UNSUPPORTED
    with sender(port) as other:
        other.send(noise(7, 2).tobytes())
        heard = take(source, 7)
    np.testing.assert_array_equal(heard.samples, noise(7, 2).astype(np.float32) / 32768)


@pytest.mark.parametrize(
    "data", [b"\x00" * 100, b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"x" * 100_000, b""]
)
def test_peers_that_speak_something_else_hurt_nobody(source: Source, port: int, data: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port)) as peer:
        peer.settimeout(30)
        with suppress(OSError):  # it may be cut off in the midst of what it sends
            peer.sendall(data)
            peer.shutdown(socket.SHUT_WR)
            while peer.recv(1 << 16):
                pass
    with sender(port) as other:
        other.send(noise(10).tobytes())
        assert len(take(source, 10).samples) == 10


def test_a_listener_loads_the_library_only_when_it_is_needed() -> None:
    script = (
        "import sys; from fl_client.listen.sources import open_source\n"
        "open_source('ws:127.0.0.1:8661')\n"
        "print([name for name in ('websockets', 'fastapi', 'asyncio') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout == "[]\n"
