"""What stands before the API's routes."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fl_client.callers import Callers

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


class Guard:
    """Lets those requests through that `callers` has no objection to; no other code sees the others."""

    def __init__(self, app: ASGIApp, callers: Callers) -> None:
        self._app = app
        self._callers = callers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_guarded(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
        address, _ = scope["server"] or (None, None)
        objection = self._callers.objection(headers, address)
        if objection is None:
            await self._app(scope, receive, send_guarded)
            return
        challenge = {"WWW-Authenticate": "Bearer"} if objection.status == 401 else None
        refusal = JSONResponse({"detail": objection.reason}, objection.status, challenge)
        if scope["type"] == "websocket":
            del refusal.headers["content-length"]  # uvicorn adds its own
        await refusal(scope, receive, send_guarded)
