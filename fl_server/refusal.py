"""Saying no to a device over HTTP, in words that it can show."""

from __future__ import annotations

from starlette.responses import Response

from common.errors import CoordinatorError, FedAudioError
from common.protocol.enrolment import Refused
from common.security.canonical import canonical


class RefusedError(CoordinatorError):
    """A request that is refused. The arguments are those of `CoordinatorError` and the HTTP status.

    Args:
        retry_seconds: after which it is worth asking again; None where that is of no use.
    """

    def __init__(
        self, http_status: int, code: str, happened: str, remedy: str, *, retry_seconds: int | None = None
    ) -> None:
        super().__init__(code, happened, remedy)
        self.http_status = http_status
        self.retry_seconds = retry_seconds


def refusal(error: FedAudioError, http_status: int = 403) -> Response:
    """The answer that says `error`. The connection is closed: what else was on its way is not read."""
    headers = {"connection": "close"}
    if isinstance(error, RefusedError):
        http_status = error.http_status
        if error.retry_seconds is not None:
            headers["retry-after"] = str(error.retry_seconds)
    said = Refused(code=error.code, happened=error.happened[:500], remedy=error.remedy[:500])
    return Response(canonical(said), http_status, headers, media_type="application/json")
