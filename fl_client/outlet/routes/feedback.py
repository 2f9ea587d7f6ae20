"""POST /v1/feedback: what the owner says about an event."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, HTTPException, Request
from pydantic import Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse

from common.errors import FedAudioError
from common.settings import Settings
from fl_client.home import DeviceHome

LARGEST_BODY = 1 << 10

MISSING = frozenset({"FA-4250", "FA-4251"})

Word = Annotated[str, Field(min_length=1, max_length=80)]


class Said(Settings):
    """The body of a request; see `fl_client.feedback.give_feedback`."""

    event: Word
    verdict: Word
    speaker: Word | None = None


def routes(home: DeviceHome) -> APIRouter:
    """The route that changes the clips in `home`."""
    router = APIRouter()

    @router.post("/feedback")
    async def feedback(request: Request) -> JSONResponse:
        said = await _said(request)
        return await run_in_threadpool(_answer, home, said)

    return router


async def _said(request: Request) -> Said:
    # A form of a web page can send any text, but not with this type.
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise HTTPException(415, "The body must be application/json.")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST_BODY:
            raise HTTPException(413, f"The body may have {LARGEST_BODY} bytes.")
    try:
        return Said.model_validate_json(body)
    except ValidationError as error:
        raise HTTPException(422, "The body must have event and verdict, and may have speaker.") from error


def _answer(home: DeviceHome, said: Said) -> JSONResponse:
    from fl_client.feedback import give_feedback  # reads and writes sound files, which few ask for

    try:
        given = give_feedback(home, said.event, said.verdict, said.speaker)
    except FedAudioError as error:
        document = {"error": error.code, "happened": error.happened, "remedy": error.remedy}
        return JSONResponse(document, 404 if error.code in MISSING else 409)
    return JSONResponse(asdict(given))
