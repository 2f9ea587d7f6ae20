"""Letting connections in: not too many, and none that keeps us waiting.

uvicorn waits a minute for the end of a TLS handshake and for ever for the head of a request. Here both have
seconds, an address has a number of connections and a pace, and a reader that stands still is let go.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import ssl
from asyncio.sslproto import SSLProtocol
from collections import Counter
from collections.abc import Callable
from typing import Any, NoReturn

import uvicorn
from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from fl_server.limits import Pace, neighbourhood

log = logging.getLogger(__name__)

HEAD_SECONDS = 10.0
"""For the TLS handshake, then for the whole head of a request: after a connection, and after each answer."""

STALL_SECONDS = 60.0
"""A reader that takes nothing of an answer for so long is gone."""

LARGEST_HEAD = 16 << 10

PER_ADDRESS = 4096
"""Connections from one address: a thousand devices may be behind one."""

MOST_CONNECTIONS = 8_192
"""In all. One that asks nothing holds up to 100 kB, before its handshake and after, so all hold 0.8 GB."""

UNGREETED_PER_ADDRESS, MOST_UNGREETED = 256, 1024
"""Connections whose TLS handshake has not ended: nobody knows yet whether they are more than a socket."""

TLS_BUFFER = 32 << 10
"""Bytes that asyncio keeps for each connection to read into; its own 256 KiB are for peers one knows. A TLS
record is half as long (RFC 8446, section 5.1)."""

RESERVED_FILES = 256
"""Descriptors kept for everything else."""

BACKLOG = 2048


class BrokenOffError(Exception):
    """Ends the parsing of what a peer has sent, whose connection is gone already."""


class PatientProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, with an end to its patience.

    Devices say how long a body is, and wait for an answer before they ask again. Who sends chunks, whose
    trailers may go on without end, or requests ahead, which pile up, is no device.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.ended = self.loop.create_future()
        self._heads, self._in_head, self._head_bytes = 0, True, 0
        self._stall: asyncio.TimerHandle | None = None
        self._head_timer: asyncio.TimerHandle | None = self.loop.call_later(HEAD_SECONDS, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait_no_more_for_a_head()
        self.resume_writing()
        super().connection_lost(exc)
        if not self.ended.done():
            self.ended.set_result(None)

    def data_received(self, data: bytes) -> None:
        heads, reading = self._heads, self._in_head
        super().data_received(data)
        if self._heads != heads or not reading:
            self._head_bytes = 0
            return
        self._head_bytes += len(data)
        if self._head_bytes > LARGEST_HEAD:
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        if not self.transport.is_closing():
            super().send_400_response(msg)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            self._break_off()
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        chunked = any(name == b"transfer-encoding" for name, _ in self.headers)
        if chunked or self.pipeline or not self._has_answered():
            self._break_off()
        self._heads += 1
        self._in_head = False
        self._wait_no_more_for_a_head()
        if sum(len(name) + len(value) for name, value in self.headers) + len(self.url) > LARGEST_HEAD:
            self.app = Response(status_code=431, headers={"connection": "close"})
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_head = True

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete and not self.transport.is_closing():
            self._wait_no_more_for_a_head()
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall = self.loop.call_later(STALL_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _has_answered(self) -> bool:
        """Whether the peer may know the end of the last answer, be it that the app has still to say so."""
        last = self.cycle
        if last is None or last.response_complete:
            return True
        return last.response_started and not last.chunked_encoding and last.expected_content_length == 0

    def _break_off(self) -> NoReturn:
        self.transport.abort()
        raise BrokenOffError

    def _wait_no_more_for_a_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class Door:
    """Accepts connections on `listener` for as long as it is open.

    Args:
        make_protocol: for each connection.
        context: TLS; None for plain HTTP.
        pace: at which an address may come.
    """

    def __init__(
        self,
        listener: socket.socket,
        make_protocol: Callable[[], PatientProtocol],
        context: ssl.SSLContext | None,
        pace: Pace,
    ) -> None:
        self._listener = listener
        self._make_protocol = make_protocol
        self._context = context
        self._pace = pace
        self._most = min(MOST_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - RESERVED_FILES)
        self._open: Counter[str] = Counter()
        self._ungreeted: Counter[str] = Counter()
        self._guests: set[asyncio.Task[None]] = set()
        listener.setblocking(False)
        self._porter = asyncio.get_running_loop().create_task(self._accept())

    def close(self) -> None:
        """Let nobody in any more."""
        self._porter.cancel()

    async def wait_closed(self) -> None:
        """Return when nobody is let in any more."""
        await asyncio.wait([self._porter])

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        with self._listener:
            while True:
                try:
                    connection, peer = await loop.sock_accept(self._listener)
                except OSError as error:
                    log.warning("a connection could not be accepted: %s", error.strerror)
                    await asyncio.sleep(0.1)
                else:
                    self._receive(connection, neighbourhood(peer[0]))

    def _receive(self, connection: socket.socket, place: str) -> None:
        if self._is_full(place) or not self._pace.take(place):
            connection.close()
            return
        self._open[place] += 1
        self._ungreeted[place] += 1
        guest = asyncio.get_running_loop().create_task(self._serve(connection, place))
        self._guests.add(guest)
        guest.add_done_callback(self._guests.discard)

    def _is_full(self, place: str) -> bool:
        # The newest is turned away: those before it may be honest, and have come further.
        return (
            self._open[place] >= PER_ADDRESS
            or self._open.total() >= self._most
            or self._ungreeted[place] >= UNGREETED_PER_ADDRESS
            or self._ungreeted.total() >= MOST_UNGREETED
        )

    async def _serve(self, connection: socket.socket, place: str) -> None:
        loop = asyncio.get_running_loop()
        limits: dict[str, Any] = {}
        if self._context is not None:
            limits = {"ssl_handshake_timeout": HEAD_SECONDS, "ssl_shutdown_timeout": 1.0}
        try:
            try:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                _, protocol = await loop.connect_accepted_socket(
                    self._make_protocol, connection, ssl=self._context, **limits
                )
            finally:
                _forget_one(self._ungreeted, place)
            await protocol.ended
        except OSError as error:
            log.debug("no connection came about: %s", error)
        finally:
            _forget_one(self._open, place)


class PublicServer(uvicorn.Server):
    """A uvicorn server behind a `Door`.

    Args:
        context, pace: as for `Door`.
    """

    def __init__(
        self, config: uvicorn.Config, listener: socket.socket, context: ssl.SSLContext | None, pace: Pace
    ) -> None:
        super().__init__(config)
        self._listener, self._context, self._pace = listener, context, pace

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=[])
        door = Door(self._listener, self._make_protocol, self._context, self._pace)
        self.servers = [door]  # type: ignore[list-item]

    def _make_protocol(self) -> PatientProtocol:
        return PatientProtocol(self.config, self.server_state, self.lifespan.state)


def _forget_one(counter: Counter[str], place: str) -> None:
    counter[place] -= 1
    if not counter[place]:
        del counter[place]


def shrink_tls_buffers() -> None:
    """Let a TLS connection of this process cost little memory, above all before its handshake."""
    SSLProtocol.max_size = TLS_BUFFER


def raise_file_limit() -> None:
    """Let this process have as many files and connections open as it may."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS + RESERVED_FILES
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (wanted if most == resource.RLIM_INFINITY else min(most, wanted), most)
    )
