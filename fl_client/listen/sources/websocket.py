"""Sound that somebody brings over a WebSocket."""

from __future__ import annotations

import logging
import math
import select
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
    from websockets.http11 import Request, Response

log = logging.getLogger(__name__)

LARGEST_MESSAGE = 1 << 16
"""Bytes (2 s)."""

SWITCHING = 101
UNSUPPORTED = 1003

HANDSHAKE_SECONDS = 3.0

QUIET_SECONDS = 5.0
"""Who brings no sound for so long makes room for another."""

MOST_SENDERS = 8
"""Connections at a time; one more takes the place of the oldest that has not said what it wants, if any."""


class WebSocketPcm:
    """PCM in binary messages, from one sender at a time; others wait for their answer until it has gone.

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
        self._senders: list[_Sender] = []
        self._newest: _Sender | None = None

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
        try:
            while not self._stop.is_set():
                # The listener last: nobody is sent away whose request is there.
                watched: list[_Sender | socket.socket] = [*self._senders, self._listener]
                for one in select.select(watched, (), (), WAIT_SECONDS)[0]:
                    if isinstance(one, _Sender):
                        self._hear(one)
                    else:
                        self._admit()
                for sender in [sender for sender in self._senders if sender.is_over]:
                    self._dismiss(sender)
                self._answer_next()
        finally:
            for sender in self._senders:
                sender.close()

    def _admit(self) -> None:
        try:
            peer, address = self._listener.accept()
        except (TimeoutError, ConnectionError):
            return  # it has gone again
        if len(self._senders) == MOST_SENDERS:
            mute = next((sender for sender in self._senders if sender.is_mute), None)
            if mute is None:
                peer.close()
                return
            self._dismiss(mute)
        self._senders.append(_Sender(peer, address[0], self._callers))

    def _dismiss(self, sender: _Sender) -> None:
        sender.close()
        self._senders.remove(sender)

    def _answer_next(self) -> None:
        """Let the one that has waited longest send, if nobody does."""
        if any(sender.is_heard for sender in self._senders):
            return
        following = next((sender for sender in self._senders if sender.is_waiting), None)
        if following is not None:
            following.welcome()

    def _hear(self, sender: _Sender) -> None:
        for samples in sender.receive():
            fresh = sender is not self._newest
            if fresh:
                log.info("sound comes from %s", sender.address)
            self._backlog.write(samples, overrun=fresh and self._newest is not None)
            self._newest = sender


class _Sender:
    """One connection; its patience has an end, whatever the other side does or does not.

    Attributes:
        address: of the other side.
        is_mute: it has not said what it wants.
        is_heard: it may send sound.
    """

    def __init__(self, peer: socket.socket, address: str, callers: Callers) -> None:
        # Loaded for those who want it only.
        from websockets.server import ServerProtocol

        peer.settimeout(WAIT_SECONDS)
        self.address = address
        self.is_mute, self.is_heard = True, False
        self._peer = peer
        self._callers = callers
        self._due = time.monotonic() + HANDSHAKE_SECONDS
        self._welcome: Response | None = None
        self._gone = False
        self._protocol = ServerProtocol(max_size=LARGEST_MESSAGE)
        self._decoder = PcmDecoder()

    def fileno(self) -> int:
        return self._peer.fileno()

    @property
    def is_waiting(self) -> bool:
        """Whether it has asked for what it may have, and was not answered."""
        return self._welcome is not None and not self.is_over

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to come of it."""
        return self._gone or self._protocol.close_expected() or time.monotonic() > self._due

    def close(self) -> None:
        self._decoder.end()
        self._peer.close()

    def welcome(self) -> None:
        """Have it send."""
        if self._welcome is not None:
            self._protocol.send_response(self._welcome)
            self._welcome, self.is_heard = None, True
            self._due = time.monotonic() + QUIET_SECONDS
            self._send()

    def receive(self) -> Iterator[Rows]:
        """The sound in what has come."""
        from websockets.frames import Frame, Opcode
        from websockets.http11 import Request

        try:
            data, own = self._peer.recv(LARGEST_MESSAGE), self._peer.getsockname()[0]
        except TimeoutError:
            return
        except OSError as error:
            self._lose(error)
            return
        self._gone = not data
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, Request):
                self._consider(event, own)
            elif not (isinstance(event, Frame) and self.is_heard):
                self._gone = True  # it must not send before it is answered
                break
            elif event.opcode in (Opcode.BINARY, Opcode.CONT) and event.data:  # an empty one is quiet
                self._due = time.monotonic() + QUIET_SECONDS
                yield self._decoder.decode(bytes(event.data))
            elif event.opcode is Opcode.TEXT:
                self._protocol.fail(UNSUPPORTED, "sound comes in binary messages")
                break  # what came with it is no sound either
        self._send()

    def _consider(self, request: Request, own: str) -> None:
        """Refuse at once what is not to be, and keep the answer to all else until it is its turn.

        Args:
            own: our end of the connection.
        """
        self.is_mute = False
        headers = [(name.lower(), value) for name, value in request.headers.raw_items()]
        objection = self._callers.objection(headers, own)
        if objection is not None:
            self._protocol.send_response(self._protocol.reject(objection.status, f"{objection.reason}\n"))
            return
        response = self._protocol.accept(request)
        if response.status_code != SWITCHING:
            self._protocol.send_response(response)
            return
        if offers_subprotocol(headers):
            response.headers["Sec-WebSocket-Protocol"] = SUBPROTOCOL
        self._welcome, self._due = response, math.inf

    def _send(self) -> None:
        try:
            for data in self._protocol.data_to_send():
                if data:
                    self._peer.sendall(data)
                else:
                    self._peer.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        log.info("a sender of sound was lost: %s", error)
        self._gone = True
