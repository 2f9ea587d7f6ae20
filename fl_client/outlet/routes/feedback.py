"""POST /v1/feedback: what the owner says about an event."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException, Request
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse

from fl_client.home import DeviceHome
from fl_client.outlet.said import LARGEST, Said, answer

MISSING = frozenset({"FA-4250", "FA-4251"})


def routes(home: DeviceHome) -> APIRouter:
    """The route that changes the clips in `home`, and in the folders of its further tasks."""
    router = APIRouter()

    @router.post("/feedback")
    async def feedback(request: Request) -> JSONResponse:
        document = await run_in_threadpool(answer, home, await _said(request))
        code = document.get("error")
        return JSONResponse(document, 200 if code is None else 404 if code in MISSING else 409)

    return router


async def _said(request: Request) -> Said:
    # A form of a web page can send any text, but not with this type.
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise HTTPException(415, "The body must be application/json.")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST:
            raise HTTPException(413, f"The body may have {LARGEST} bytes.")
    try:
        return Said.model_validate_json(body)
    except ValidationError as error:
        raise HTTPException(422, "The body must have event and verdict, and may have speaker.") from error
