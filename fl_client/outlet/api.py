"""The local HTTP and WebSocket API, in a thread of its own."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterable, Sequence
from typing import Self

import uvicorn
from fastapi import FastAPI

from fl_client.callers import Callers
from fl_client.home import DeviceHome
from fl_client.outlet.feed import Feed
from fl_client.outlet.guard import Guard
from fl_client.outlet.lines import Line
from fl_client.outlet.routes import feedback, messages, state
from fl_client.outlet.settings import ApiSettings
from fl_client.outlet.sockets import BoundedHttp, BoundedWebSocket
from fl_client.reports import Report

LARGEST_HEAD = 1 << 14

LARGEST_MESSAGE = 1 << 12
"""Bytes of what a reader says to a WebSocket."""


class Api:
    """Serves from `__enter__` to `__exit__`.

    Args:
        before: messages from before.
        tasks: those that are listened for beside the device's own.

    Raises:
        DeviceError: on entering, FA-4230, FA-4231, FA-4232.
    """

    def __init__(
        self, home: DeviceHome, settings: ApiSettings, before: Sequence[Line], tasks: Iterable[str]
    ) -> None:
        self._callers = Callers(settings.host, home.token, settings.names)
        self._port = settings.port
        self._feed = Feed(before, tasks)
        app = FastAPI(title="fedaudio", docs_url=None, redoc_url=None, openapi_url="/v1/openapi.json")
        app.include_router(messages.routes(self._feed), prefix="/v1")
        app.include_router(state.routes(home, self._feed), prefix="/v1")
        app.include_router(feedback.routes(home), prefix="/v1")
        app.add_middleware(Guard, callers=self._callers)
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                loop="asyncio",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                http=BoundedHttp,
                h11_max_incomplete_event_size=LARGEST_HEAD,
                ws=BoundedWebSocket,
                ws_max_size=LARGEST_MESSAGE,
                ws_per_message_deflate=False,
                timeout_graceful_shutdown=1,
            )
        )

    def __enter__(self) -> Self:
        listener = self._callers.listen(self._port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, args=(listener,), name="api", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()

    def __call__(self, line: Line) -> None:
        """Give a message to whoever asks."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._feed.publish, line)

    def report(self) -> Report:
        """What was counted.

        Raises:
            RuntimeError: it serves no more.
        """
        if not self._thread.is_alive():
            raise RuntimeError("the API has ended by a fault")
        return {"readers": self._feed.readers, "readers_dropped": self._feed.dropped}

    def _serve(self, listener: socket.socket) -> None:
        with listener, asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._server.serve([listener]))
