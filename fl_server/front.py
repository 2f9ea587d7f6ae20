"""The coordinator's child process: Flower's SuperLink, and before it the one public port.

    public   TLS 1.3: what devices need of Flower's Fleet API, behind `Gate`, and our own routes
    private  a Unix socket that only this user can reach: Flower's Runtime API, for the coordinator alone

Run as `python -m fl_server.front HOME HOST PORT [--insecure-loopback]`. The first line of standard input is
{"secret": hexadecimal, "password": of its keys or null}; when standard input ends the process does too, so it
never outlives its coordinator. One line of JSON on standard output says what it listens on, or why it does
not. Of the coordinator's keys it holds two, that of TLS and that of the device CA, and can open no others.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import json
import logging
import shutil
import socket
import sqlite3
import ssl
import sys
import tempfile
import threading
from pathlib import Path

import uvicorn
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from common.errors import ConfigError, CoordinatorError, FedAudioError
from common.log import configure_logging
from common.loopback import is_this_machine
from common.parent import wait_for_end_of_input
from common.protocol.enrolment import Refused
from common.security.canonical import canonical
from common.security.keys import KeyFolder, load_key_file
from common.settings import load_settings
from fl_server.authority import DeviceAuthority
from fl_server.door import (
    BACKLOG,
    HEAD_SECONDS,
    PatientProtocol,
    PublicServer,
    raise_file_limit,
    shrink_tls_buffers,
)
from fl_server.gate import Gate, OpenGate
from fl_server.home import CoordinatorHome
from fl_server.limits import Pace
from fl_server.link import Nodes, make_superlink, start_run
from fl_server.public import Offered, make_routes
from fl_server.registry import Registry
from fl_server.releases import largest_weights
from fl_server.roster import Roster
from fl_server.settings import ServerSettings

log = logging.getLogger(__name__)

SWEEP_SECONDS = 1.0
"""How often those are looked for who may no longer take part and do not ask any more."""

LONGEST_SOCKET_PATH = 90
"""A Unix socket's path has 104 bytes on some systems."""


class Private:
    """Flower's Runtime API, which the coordinator's Grid speaks; nothing else of Flower."""

    def __init__(self, superlink: ASGIApp) -> None:
        self._superlink = superlink

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not scope["path"].startswith("/v1/runtime/"):
            await Response(status_code=404)(scope, receive, send)
        else:
            await self._superlink(scope, receive, send)


class Front:
    """Both sides, once they listen.

    Args:
        secret: whoever knows it may become the coordinator's end of the fleet.
        password: of `KeyGroup.FRONT`; None when their files' mode protects them.
        insecure: plain HTTP and no node authentication, on this machine only.

    Raises:
        CoordinatorError: FA-5002, FA-5013 the address cannot be listened on, FA-5090 `insecure` elsewhere.
        ConfigError: FA-6001..FA-6003 server.toml, FA-6005..FA-6007 the keys.
    """

    def __init__(
        self,
        home: CoordinatorHome,
        host: str,
        port: int,
        secret: bytes,
        password: bytes | None,
        insecure: bool,
    ) -> None:
        if insecure:
            require_loopback(host)
        authority = DeviceAuthority.load(home, password)
        rules = load_settings(ServerSettings, home.config).devices
        self._context = None if insecure else tls_context(home, password)
        self._public = listen(host, port)
        self._folder = private_folder()
        self._private = _listen_privately(self._folder)
        registry = Registry(home.database)
        superlink = make_superlink(secret, node_auth=not insecure)
        start_run(superlink)
        self._superlink = superlink
        self._offered = Offered(home.releases)
        self._pace = Pace()
        own = make_routes(home, registry, authority, rules, self._offered)
        self._gate: Gate | OpenGate
        if insecure:
            self._gate = OpenGate(superlink, own, Nodes(superlink))
        else:
            roster = Roster(home.database, authority)
            self._gate = Gate(
                superlink,
                own,
                Nodes(superlink),
                roster,
                lambda: largest_weights(home.releases),
                self._pace,
            )

    @property
    def listening(self) -> dict[str, int | str]:
        """The public port and the path of the private socket."""
        return {"port": self._public.getsockname()[1], "private": self._private.getsockname()}

    async def serve(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set."""
        private = uvicorn.Server(_config(Private(self._superlink), lifespan="on"))
        config = _config(self._gate, http=PatientProtocol)
        public = PublicServer(config, self._public, self._context, self._pace)
        tasks = [
            asyncio.create_task(work)
            for work in (
                private.serve([self._private]),
                public.serve(),
                self._offered.watch(),
                self._sweep(),
            )
        ]
        stopped = asyncio.create_task(stop.wait())
        # The whole front ends when a part of it has, for whatever reason.
        await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
        self._offered.over = private.should_exit = public.should_exit = True
        stopped.cancel()
        await asyncio.gather(*tasks)

    def close(self) -> None:
        """Take away what would be left on the disk."""
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _sweep(self) -> None:
        while not self._offered.over:
            if isinstance(self._gate, Gate):
                try:
                    self._gate.sweep()
                except sqlite3.Error as error:
                    log.error("the registry cannot be read: %s", error)
            await self._offered.change(SWEEP_SECONDS)


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("home", type=Path)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--insecure-loopback", action="store_true")
    options = parser.parse_args()
    configure_logging(quiet=["flwr", "uvicorn"])
    # Whoever sends garbage would fill the log.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    raise_file_limit()
    shrink_tls_buffers()
    given = json.loads(sys.stdin.readline())
    password = given["password"].encode() if given["password"] else None
    try:
        front = Front(
            CoordinatorHome(options.home),
            options.host,
            options.port,
            bytes.fromhex(given["secret"]),
            password,
            options.insecure_loopback,
        )
    except FedAudioError as error:
        said = Refused(code=error.code, happened=error.happened[:500], remedy=error.remedy[:500])
        print(canonical(said).decode(), flush=True)  # noqa: T201 - the parent waits for this line
        sys.exit(error.status)
    print(json.dumps(front.listening), flush=True)  # noqa: T201 - as above
    try:
        asyncio.run(_serve(front))
    finally:
        front.close()


async def _serve(front: Front) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def stop_with_parent() -> None:
        wait_for_end_of_input()
        loop.call_soon_threadsafe(stop.set)

    # A thread, because a blocking read of standard input cannot be waited for on every platform.
    threading.Thread(target=stop_with_parent, daemon=True).start()
    await front.serve(stop)


def require_loopback(host: str) -> None:
    """Return if `host` is this machine, by address.

    Raises:
        CoordinatorError: FA-5090.
    """
    if not is_this_machine(host):
        raise CoordinatorError(
            "FA-5090",
            f"--insecure-loopback listens on 127.0.0.1 or ::1 only, not on {host}.",
            "Leave the option out: connections are then encrypted and checked; or set host in server.toml.",
        )


def tls_context(home: CoordinatorHome, password: bytes | None) -> ssl.SSLContext:
    """TLS 1.3 and nothing older, with the coordinator's certificate.

    Raises:
        ConfigError: FA-6005..FA-6007 the key, FA-5091 its certificate.
    """
    key = KeyFolder(home.keys, None).path("tls")
    load_key_file(key, password, EllipticCurvePrivateKey)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_cert_chain(home.certificate, key, password)
    except OSError as error:
        raise ConfigError(
            "FA-5091",
            f"The certificate {home.certificate} cannot be used with its key: {error.strerror or error}.",
            "Restore keys/ from a backup, or make a new certificate: fedaudio server keys rotate",
        ) from error
    return context


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        CoordinatorError: FA-5002 the port is in use, FA-5013 it cannot be listened on for another reason.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except (OSError, UnicodeError) as error:
        listener.close()
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise CoordinatorError(
                "FA-5002",
                f"Port {port} on {host} is in use.",
                "Stop the other program, or choose another port in server.toml or with --port.",
            ) from error
        raise CoordinatorError(
            "FA-5013",
            f"This machine cannot listen on {host}, port {port}.",
            "Choose an address of this machine and a port you may use in server.toml.",
        ) from error
    return listener


def private_folder() -> Path:
    """A new folder that only this user may enter, with a short path."""
    folder = tempfile.mkdtemp(prefix="fedaudio-")
    if len(folder) > LONGEST_SOCKET_PATH:
        Path(folder).rmdir()
        folder = tempfile.mkdtemp(prefix="fedaudio-", dir="/tmp")
    return Path(folder)


def _listen_privately(folder: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(folder / "superlink"))
    listener.listen()
    return listener


def _config(app: ASGIApp, **options: object) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        **{"lifespan": "off"} | options,  # type: ignore[arg-type]
        log_config=None,
        access_log=False,
        server_header=False,
        # Nobody stands between a device and this port whose word on its address would be good.
        proxy_headers=False,
        ws="none",
        timeout_keep_alive=int(HEAD_SECONDS),
        timeout_graceful_shutdown=3,
    )


if __name__ == "__main__":
    main()
