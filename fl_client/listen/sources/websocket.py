"""Sound that somebody brings over a WebSocket."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Self

from fl_client.callers import SUBPROTOCOL, Callers, offers_subprotocol
from fl_client.listen.ring import Rows
from fl_client.listen.sources.backlog import Backlog
from fl_client.listen.sources.pcm import PcmDecoder
from fl_client.listen.sources.source import WAIT_SECONDS, Block

if TYPE_CHECKING:
    from websockets.http11 import Request
    from websockets.protocol import Event

log = logging.getLogger(__name__)

LARGEST_MESSAGE = 1 << 16
"""Bytes (2 s)."""

SWITCHING = 101
UNSUPPORTED = 1003

HANDSHAKE_SECONDS = 3.0

QUIET_SECONDS = 5.0
"""Who brings no sound for so long makes room for another."""


class WebSocketPcm:
    """PCM in binary messages, from one sender at a time; others wait until it has gone.

    A sender is never held back: what comes faster than it is read pushes the oldest out, and is counted. One
    that comes after another is an overrun, for nobody knows what was missed between them. Neither its going
    nor its coming ends the sound.

    Raises:
        DeviceError: on entering, FA-4230, FA-4231, FA-4232.
        RuntimeError: on reading, it hears no more by a fault.
    """

    def __init__(self, callers: Callers, port: int) -> None:
        self._callers = callers
        self._port = port
        self._backlog = Backlog()
        self._stop = threading.Event()
        self._heard = False

    def __enter__(self) -> Self:
        self._listener = self._callers.listen(self._port)
        self._listener.settimeout(WAIT_SECONDS)
        self._thread = threading.Thread(target=self._serve, name="websocket", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._listener.close()

    def read(self) -> Block | None:
        if not self._thread.is_alive():
            raise RuntimeError("nobody listens to the WebSocket any more")
        return self._backlog.read()

    def _serve(self) -> None:
        while not self._stop.is_set():
            try:
                peer, address = self._listener.accept()
            except TimeoutError:
                continue
            with peer:
                try:
                    self._attend(_Sender(peer, self._callers), address[0])
                except OSError as error:
                    log.info("the sender of sound was lost: %s", error)

    def _attend(self, sender: _Sender, address: str) -> None:
        fresh = True
        for samples in sender.sound(self._stop):
            if fresh:
                log.info("sound comes from %s", address)
            self._backlog.write(samples, overrun=fresh and self._heard)
            fresh, self._heard = False, True


class _Sender:
    """One connection; its patience has an end, whatever the other side does or does not."""

    def __init__(self, peer: socket.socket, callers: Callers) -> None:
        # Loaded for those who want it only.
        from websockets.server import ServerProtocol

        peer.settimeout(WAIT_SECONDS)
        self._peer = peer
        self._callers = callers
        self._gone = False
        self._protocol = ServerProtocol(max_size=LARGEST_MESSAGE)

    def sound(self, stop: threading.Event) -> Iterator[Rows]:
        """What is sent, until it ends, is quiet for too long, or `stop` is set.

        Raises:
            OSError: the connection was lost.
        """
        from websockets.frames import Frame, Opcode
        from websockets.http11 import Request

        decoder, due = PcmDecoder(), time.monotonic() + HANDSHAKE_SECONDS
        while not (stop.is_set() or time.monotonic() > due or self._is_over()):
            for event in self._receive():
                if isinstance(event, Request):
                    self._answer(event)
                elif not isinstance(event, Frame):
                    continue
                elif event.opcode in (Opcode.BINARY, Opcode.CONT) and event.data:  # an empty one is quiet
                    due = time.monotonic() + QUIET_SECONDS
                    yield decoder.decode(bytes(event.data))
                elif event.opcode is Opcode.TEXT:
                    self._protocol.fail(UNSUPPORTED, "sound comes in binary messages")
                    break  # what came with it is no sound either
            self._send()
        decoder.end()

    def _is_over(self) -> bool:
        return self._gone or self._protocol.close_expected()

    def _receive(self) -> list[Event]:
        try:
            data = self._peer.recv(LARGEST_MESSAGE)
        except TimeoutError:
            return []
        if data:
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()
            self._gone = True
        return self._protocol.events_received()

    def _answer(self, request: Request) -> None:
        headers = [(name.lower(), value) for name, value in request.headers.raw_items()]
        objection = self._callers.objection(headers, self._peer.getsockname()[0])
        if objection is not None:
            response = self._protocol.reject(objection.status, f"{objection.reason}\n")
        else:
            response = self._protocol.accept(request)
            if response.status_code == SWITCHING and offers_subprotocol(headers):
                response.headers["Sec-WebSocket-Protocol"] = SUBPROTOCOL
        self._protocol.send_response(response)

    def _send(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self._peer.sendall(data)
            else:
                self._peer.shutdown(socket.SHUT_WR)
