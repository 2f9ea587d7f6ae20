"""Our own routes on the public port: health, trust, enrolment, releases. Everything else is 404."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from common.errors import FedAudioError, ProtocolError
from common.files import StorageError
from common.protocol.enrolment import (
    ENROL_PATH,
    LARGEST_REQUEST,
    RENEW_PATH,
    TRUST_PATH,
    Enrolled,
    EnrolmentRequest,
)
from common.protocol.release import FILES
from common.security.canonical import canonical, read_canonical
from fl_server.authority import DeviceAuthority
from fl_server.enrolment import enrol, renew
from fl_server.gate import malformed, unavailable
from fl_server.home import CoordinatorHome
from fl_server.limits import Failures, announced_length, read_body
from fl_server.refusal import refusal
from fl_server.registry import Registry
from fl_server.releases import Stages, release_folder, stages, version_for
from fl_server.settings import DeviceRules

log = logging.getLogger(__name__)

LONGEST_POLL_SECONDS = 30.0
LOOK_SECONDS = 0.1

ENROLMENTS_AT_ONCE = 4
"""Threads for them, apart from Flower's. The database has one writer anyway."""


class Offered:
    """The releases that devices are given now, looked up ten times a second, however many devices wait."""

    def __init__(self, releases: Path) -> None:
        self._releases = releases
        self._news = asyncio.Event()
        self.stages: Stages = stages(releases)
        self.over = False

    async def watch(self) -> None:
        """Keep up to date, until `over`."""
        while not self.over:
            found = stages(self._releases)
            if found != self.stages:
                self.stages = found
                self._tell()
            await asyncio.sleep(LOOK_SECONDS)
        self._tell()

    async def change(self, seconds: float) -> None:
        """Wait for a change, for `seconds` at most."""
        try:
            await asyncio.wait_for(self._news.wait(), seconds)
        except TimeoutError:
            return

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


class _Kept:
    """A file that is served from memory, and read again when it is another one.

    Args:
        path: of a small file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, ...] = ()
        self._data = b""

    def read(self) -> bytes:
        """What is in the file.

        Raises:
            OSError: it cannot be read.
        """
        found = self._path.stat()
        # Files here are replaced, never changed: another one has another inode.
        stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
        if stamp != self._stamp:
            self._data, self._stamp = self._path.read_bytes(), stamp
        return self._data


def make_routes(
    home: CoordinatorHome,
    registry: Registry,
    authority: DeviceAuthority,
    rules: DeviceRules,
    offered: Offered,
) -> Starlette:
    """The app with all of them."""
    desk, statement = _EnrolmentDesk(registry, authority, rules), _Kept(home.trust)

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok", "time": time.time()})

    async def trust(request: Request) -> Response:
        try:
            return Response(statement.read(), media_type="application/octet-stream")
        except OSError:
            return Response(status_code=404)

    async def newest(request: Request) -> Response:
        """The newest version above `after` for `device`, waiting up to `wait` seconds for it; 204 if none."""
        try:
            after = int(request.query_params.get("after", "-1"))
            wait = min(LONGEST_POLL_SECONDS, max(0.0, float(request.query_params.get("wait", "0"))))
        except ValueError:
            return Response(status_code=400)
        device, deadline = request.query_params.get("device"), time.monotonic() + wait
        while (version := version_for(device, offered.stages)) is None or version <= after:
            left = deadline - time.monotonic()
            if offered.over or left <= 0 or await request.is_disconnected():
                return Response(status_code=204)
            await offered.change(min(left, 1.0))
        return JSONResponse({"version": version})

    async def download(request: Request) -> Response:
        version, name = request.path_params["version"], request.path_params["name"]
        if name not in FILES or not version.isdecimal() or len(version) > 8:
            return Response(status_code=404)
        # A newer version may be on the disk already.
        if not offered.stages or int(version) > offered.stages[0][0]:
            return Response(status_code=404)
        path = release_folder(home.releases, int(version)) / name
        if not path.is_file():
            return Response(status_code=404)
        return FileResponse(path, media_type="application/octet-stream")

    async def nothing(request: Request, error: Exception) -> Response:
        return Response(status_code=404)

    app = Starlette(
        # A path of ours with another method is no path of ours.
        exception_handlers={404: nothing, 405: nothing},
        routes=[
            Route("/health", health),
            Route(TRUST_PATH, trust),
            Route(ENROL_PATH, desk.enrol, methods=["POST"]),
            Route(RENEW_PATH, desk.renew, methods=["POST"]),
            Route("/v1/releases", newest),
            Route("/v1/releases/{version}/{name}", download),
        ],
    )
    # Starlette would send whoever asks for /health/ to the host that the request names.
    app.router.redirect_slashes = False
    return app


class _EnrolmentDesk:
    """Where devices get certificates."""

    def __init__(self, registry: Registry, authority: DeviceAuthority, rules: DeviceRules) -> None:
        self._given = (registry, authority, rules)
        # Devices that renew are not to wait for a neighbour who cannot enrol.
        self._failed_enrolments, self._failed_renewals = Failures(), Failures()
        self._threads = CapacityLimiter(ENROLMENTS_AT_ONCE)

    async def enrol(self, request: Request) -> Response:
        return await self._answer(request, self._enrol, self._failed_enrolments)

    async def renew(self, request: Request) -> Response:
        return await self._answer(request, self._renew, self._failed_renewals)

    async def _enrol(self, body: bytes) -> Enrolled:
        wish = read_canonical(EnrolmentRequest, body)
        if isinstance(wish, str):
            raise malformed(wish)
        return await to_thread.run_sync(partial(enrol, *self._given, wish), limiter=self._threads)

    async def _renew(self, body: bytes) -> Enrolled:
        return await to_thread.run_sync(partial(renew, *self._given, body), limiter=self._threads)

    async def _answer(
        self, request: Request, handle: Callable[[bytes], Awaitable[Enrolled]], failures: Failures
    ) -> Response:
        address = request.client.host if request.client else ""
        try:
            failures.check(address)
            length = announced_length(dict(request.scope["headers"]), LARGEST_REQUEST)
            body = await read_body(request.receive, length)
            if body is None:
                return Response(status_code=400)
            return Response(canonical(await handle(body)), media_type="application/json")
        except StorageError as error:
            log.error("a device could not be enrolled: %s", error)
            return refusal(unavailable())
        except FedAudioError as error:
            failures.note(address)
            return refusal(error, 400 if isinstance(error, ProtocolError) else 403)
        except Exception:
            log.exception("a device could not be enrolled")
            return refusal(unavailable())
