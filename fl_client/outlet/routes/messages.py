"""GET and WebSocket /v1/events: what the listener told."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, WebSocket
from starlette.websockets import WebSocketDisconnect

from fl_client.callers import SUBPROTOCOL, offers_subprotocol
from fl_client.outlet.feed import Feed, Reader
from fl_client.outlet.tail import KEPT

SEND_SECONDS = 5.0
"""A message that a reader does not take for so long ends its WebSocket."""

TOO_SLOW = 1013
"""Close code: try again later."""

Kind = Annotated[str | None, Query(alias="type", max_length=32)]


def routes(feed: Feed) -> APIRouter:
    """The routes over `feed`."""
    router = APIRouter()

    @router.get("/events")
    async def events(
        after: Annotated[str | None, Query(max_length=64)] = None,
        limit: Annotated[int, Query(ge=1, le=KEPT)] = 100,
        kind: Kind = None,
    ) -> dict[str, object]:
        page = feed.page(after, limit, kind)
        return {"events": page.lines, "complete": page.complete}

    @router.websocket("/events")
    async def live(socket: WebSocket) -> None:
        chosen = SUBPROTOCOL if offers_subprotocol(socket.headers.items()) else None
        with feed.reader() as reader:
            await socket.accept(chosen)
            tasks = [asyncio.create_task(_send(socket, reader)), asyncio.create_task(_until_gone(socket))]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    return router


async def _send(socket: WebSocket, reader: Reader) -> None:
    try:
        while (line := await reader.take()) is not None:
            await asyncio.wait_for(socket.send_json(line), SEND_SECONDS)
        await asyncio.wait_for(socket.send_json({"type": "missed", "count": reader.missed}), SEND_SECONDS)
        await asyncio.wait_for(socket.close(TOO_SLOW), SEND_SECONDS)
    except TimeoutError:
        reader.missed += 1


async def _until_gone(socket: WebSocket) -> None:
    """Return when the reader has left; what it says is not listened to."""
    try:
        while True:
            await socket.receive_text()
    except WebSocketDisconnect:
        return
