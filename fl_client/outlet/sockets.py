"""uvicorn's protocols, with bounds: nobody holds a socket of the API for long without a right to it."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

MOST = 32
"""Connections at a time; one more is closed at once."""

REQUEST_SECONDS = 20.0
"""Life of a connection that is no WebSocket."""

FAREWELL_SECONDS = 2.0
"""Time for what is under way to a reader that the API is done with."""


class BoundedHttp(H11Protocol):
    """HTTP, for so many and so long."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, or close it."""
        super().connection_made(transport)
        if len(self.connections) > MOST:
            transport.abort()
        else:
            self.loop.call_later(REQUEST_SECONDS, self._expire)

    def _expire(self) -> None:
        # A connection that has become a WebSocket has another protocol by now.
        if self.transport.get_protocol() is self:
            self.transport.abort()


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """A WebSocket that waits for its reader before it sends more, and whose end does not wait for it.

    uvicorn's own would keep all that a reader has not read in memory.
    """

    def pause_writing(self) -> None:
        """Much is under way."""
        self.writable.clear()

    def resume_writing(self) -> None:
        """It has arrived."""
        self.writable.set()

    def on_task_complete(self, task: asyncio.Task[Any]) -> None:
        """The application is done with the connection."""
        super().on_task_complete(task)
        self.loop.call_later(FAREWELL_SECONDS, self.transport.abort)
