"""A broker that speaks as much MQTT 3.1.1 as an outlet hears, on a real socket, and writes down what it is
told: http://docs.oasis-open.org/mqtt/mqtt/v3.1.1.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field

CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK, PINGREQ, PINGRESP, DISCONNECT = (
    1,
    2,
    3,
    4,
    8,
    9,
    12,
    13,
    14,
)
NOT_AUTHORISED, FAILURE = 5, 0x80


@dataclass(frozen=True)
class Published:
    """One PUBLISH."""

    topic: str
    payload: bytes
    quality: int
    retained: bool


@dataclass
class Session:
    """What a CONNECT said."""

    client: str
    keepalive: int
    will: Published | None
    username: str | None
    password: str | None


@dataclass
class MadeBroker:
    """Serves one connection at a time from `open` to `close`.

    Attributes:
        port: the same each time it is opened again.
        refuses: every CONNECT is answered with "not authorised".
        deaf: nothing is acknowledged.
        mute: no subscription is granted.
        flaps: every connection is ended as soon as it is accepted.
        sessions: each CONNECT so far.
        subscribed: each topic that was asked for.
        published: each PUBLISH so far, and the wills of those that went without a DISCONNECT.
    """

    port: int = 0
    refuses: bool = False
    deaf: bool = False
    mute: bool = False
    flaps: bool = False
    sessions: list[Session] = field(default_factory=list)
    published: list[Published] = field(default_factory=list)
    subscribed: list[str] = field(default_factory=list)
    pings: int = 0

    def open(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        self._peer: socket.socket | None = None
        self._open = True
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Go away, in the middle of everything."""
        self._open = False
        for one in (self._listener, self._peer):
            if one is not None:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()
        self._thread.join(10)

    def on(self, topic: str) -> list[bytes]:
        return [one.payload for one in self.published if one.topic == topic]

    def say(self, topic: str, payload: bytes, *, retained: bool = False, announced: int = 0) -> None:
        """Pass a message on to who is connected; or announce one of so many bytes, and send these."""
        body = len(topic.encode()).to_bytes(2, "big") + topic.encode() + payload
        assert self._peer is not None
        self._peer.sendall(bytes([PUBLISH << 4 | retained]) + _length(announced or len(body)) + body)

    def _serve(self) -> None:
        while self._open:
            try:
                self._peer, _ = self._listener.accept()
            except OSError:
                return
            with self._peer as peer:
                self._attend(peer)

    def _attend(self, peer: socket.socket) -> None:
        will = None
        try:
            while True:
                kind, flags, body = _receive(peer)
                if kind == CONNECT:
                    session = _session(body)
                    self.sessions.append(session)
                    peer.sendall(bytes([CONNACK << 4, 2, 0, NOT_AUTHORISED if self.refuses else 0]))
                    if self.refuses or self.flaps:
                        return
                    will = session.will
                elif kind == PUBLISH:
                    self._take(peer, flags, body)
                elif kind == SUBSCRIBE:
                    self.subscribed.append(_text(body[2:])[0])
                    peer.sendall(bytes([SUBACK << 4, 3, *body[:2], FAILURE if self.mute else 1]))
                elif kind == PINGREQ:
                    self.pings += 1
                    peer.sendall(bytes([PINGRESP << 4, 0]))
                elif kind == DISCONNECT:
                    will = None
                    return
                else:
                    raise AssertionError(f"an outlet never sends type {kind}")
        except (ConnectionError, OSError):
            return
        finally:
            if will is not None:
                self.published.append(will)

    def _take(self, peer: socket.socket, flags: int, body: bytes) -> None:
        topic, rest = _text(body)
        quality = flags >> 1 & 3
        if quality:
            number, rest = rest[:2], rest[2:]
        self.published.append(Published(topic, rest, quality, bool(flags & 1)))
        if quality and not self.deaf:
            peer.sendall(bytes([PUBACK << 4, 2]) + number)


def _length(count: int) -> bytes:
    digits = [count >> shift & 127 for shift in range(0, 28, 7) if not shift or count >> shift]
    return bytes(digit | 128 for digit in digits[:-1]) + bytes(digits[-1:])


def _receive(peer: socket.socket) -> tuple[int, int, bytes]:
    head = _exactly(peer, 1)[0]
    length = shift = 0
    while True:
        digit = _exactly(peer, 1)[0]
        length |= (digit & 127) << shift
        shift += 7
        if not digit & 128:
            return head >> 4, head & 15, _exactly(peer, length)


def _exactly(peer: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = peer.recv(count - len(data))
        if not piece:
            raise ConnectionError
        data += piece
    return data


def _text(body: bytes) -> tuple[str, bytes]:
    end = 2 + int.from_bytes(body[:2], "big")
    return body[2:end].decode(), body[end:]


def _session(body: bytes) -> Session:
    protocol, rest = _text(body)
    assert (protocol, rest[0]) == ("MQTT", 4)
    flags, keepalive, rest = rest[1], int.from_bytes(rest[2:4], "big"), rest[4:]
    client, rest = _text(rest)
    will = username = password = None
    if flags & 4:
        topic, rest = _text(rest)
        end = 2 + int.from_bytes(rest[:2], "big")
        will, rest = Published(topic, rest[2:end], flags >> 3 & 3, bool(flags & 32)), rest[end:]
    if flags & 128:
        username, rest = _text(rest)
    if flags & 64:
        password, rest = _text(rest)
    return Session(client, keepalive, will, username, password)
