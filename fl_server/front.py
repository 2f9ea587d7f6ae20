"""The coordinator's child process: Flower's SuperLink, and before it the one public port.

    public   TLS: /v1/fleet/* (Flower's Fleet API), /v1/releases/*, /health; anything else is 404
    private  loopback: the whole SuperLink, for the coordinator alone

Run as `python -m fl_server.front HOME HOST PORT`; a secret comes as first line of standard input, and when
standard input ends the process does too, so it never outlives its coordinator. One line of JSON on standard
output says what it listens on.
"""

from __future__ import annotations

import asyncio
import errno
import json
import socket
import sys
import threading
import time
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from common.log import configure_logging
from common.parent import wait_for_end_of_input
from common.protocol.release import FILES
from fl_server.home import CoordinatorHome
from fl_server.link import make_superlink, start_run
from fl_server.releases import current_version, release_folder

PORT_TAKEN, ADDRESS_IMPOSSIBLE = 98, 99
"""Exit statuses when the public port is in use, or cannot be listened on for another reason."""

LARGEST_REQUEST = 16 << 20
"""Flower uploads in parts of 5 MB; nothing larger comes from an honest device."""

LONGEST_POLL_SECONDS = 30.0
LOOK_SECONDS = 0.1


class PublicFace:
    """Passes Flower's Fleet API and our own routes; everything else does not exist here."""

    def __init__(self, superlink: ASGIApp, own: ASGIApp) -> None:
        self._superlink = superlink
        self._own = own

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        fleet = scope["type"] == "http" and scope["path"].startswith("/v1/fleet/")
        if fleet and not _has_sane_length(scope):
            await Response(status_code=413)(scope, receive, send)
            return
        await (self._superlink if fleet else self._own)(scope, receive, send)


def _has_sane_length(scope: Scope) -> bool:
    """Whether a request says how long it is, and it is not absurd; the server holds it to its word."""
    headers = dict(scope["headers"])
    length = headers.get(b"content-length", b"0")
    return b"transfer-encoding" not in headers and length.isdigit() and int(length) <= LARGEST_REQUEST


class Newest:
    """The version devices are given now, looked up on disk ten times a second at most, whoever asks."""

    def __init__(self, releases: Path) -> None:
        self._releases = releases
        self._version: int | None = None
        self._looked = float("-inf")

    def version(self) -> int | None:
        if time.monotonic() - self._looked > LOOK_SECONDS:
            self._version, self._looked = current_version(self._releases), time.monotonic()
        return self._version


def make_routes(releases: Path, stopping: threading.Event) -> Starlette:
    """Health and the download of releases; once `stopping` is set nobody is kept waiting."""
    newest_known = Newest(releases)

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def newest(request: Request) -> Response:
        """The newest version above `after`, waiting up to `wait` seconds for it; 204 if there is none."""
        try:
            after = int(request.query_params.get("after", "-1"))
            wait = min(LONGEST_POLL_SECONDS, max(0.0, float(request.query_params.get("wait", "0"))))
        except ValueError:
            return Response(status_code=400)
        deadline = asyncio.get_running_loop().time() + wait
        while (version := newest_known.version()) is None or version <= after:
            late = stopping.is_set() or asyncio.get_running_loop().time() >= deadline
            if late or await request.is_disconnected():
                return Response(status_code=204)
            await asyncio.sleep(LOOK_SECONDS)
        return JSONResponse({"version": version})

    async def download(request: Request) -> Response:
        version, name = request.path_params["version"], request.path_params["name"]
        if name not in FILES or not version.isdecimal() or len(version) > 8:
            return Response(status_code=404)
        official = current_version(releases)
        # A newer version may be on the disk already.
        if official is None or int(version) > official:
            return Response(status_code=404)
        path = release_folder(releases, int(version)) / name
        if not path.is_file():
            return Response(status_code=404)
        return FileResponse(path, media_type="application/octet-stream")

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/v1/releases", newest),
            Route("/v1/releases/{version}/{name}", download),
        ]
    )


def main() -> None:
    """Serve until standard input ends."""
    home, host, port = CoordinatorHome(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3])
    configure_logging(quiet=["flwr", "uvicorn"])
    secret = bytes.fromhex(sys.stdin.readline().strip())
    public, private = _listen(host, port), _listen("127.0.0.1", 0)
    superlink, stopping = make_superlink(secret), threading.Event()
    servers = [
        _server(superlink, lifespan="on"),
        _server(
            PublicFace(superlink, make_routes(home.releases, stopping)),
            lifespan="off",
            ssl_certfile=str(home.certificate),
            ssl_keyfile=str(home.tls_key),
        ),
    ]
    # A thread, because a blocking read of standard input cannot be waited for on every platform.
    threading.Thread(target=_stop_with_parent, args=(servers, stopping), daemon=True).start()
    start_run(superlink)
    ready = {"port": public.getsockname()[1], "private": private.getsockname()[1]}
    print(json.dumps(ready), flush=True)  # noqa: T201 - the parent waits for this line
    asyncio.run(_serve(servers, [private, public]))


async def _serve(servers: list[uvicorn.Server], sockets: list[socket.socket]) -> None:
    await asyncio.gather(*(server.serve([sock]) for server, sock in zip(servers, sockets, strict=True)))


def _server(app: ASGIApp, **options: str) -> uvicorn.Server:
    return uvicorn.Server(
        uvicorn.Config(app, log_config=None, access_log=False, server_header=False, **options)  # type: ignore[arg-type]
    )


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio turns Nagle's algorithm off; without, each answer waits 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(1024)
    except (OSError, UnicodeError) as error:
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        sys.exit(PORT_TAKEN if taken else ADDRESS_IMPOSSIBLE)
    return listener


def _stop_with_parent(servers: list[uvicorn.Server], stopping: threading.Event) -> None:
    wait_for_end_of_input()
    stopping.set()
    for server in servers:
        server.should_exit = True


if __name__ == "__main__":
    main()
