"""Servers for devices to talk to: any answers over HTTP or TLS, and a desk that enrols by the book."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from common.errors import FedAudioError
from common.protocol.enrolment import (
    ENROL_PATH,
    RENEW_PATH,
    TRUST_PATH,
    Enrolled,
    EnrolmentRequest,
    Refused,
)
from common.protocol.invitation import Invitation
from common.security.canonical import canonical, read_canonical
from fl_server.authority import DeviceAuthority
from fl_server.enrolment import approve, enrol, renew, revoke
from fl_server.registry import Registry
from fl_server.settings import DeviceRules
from fl_server.tokens import make_token
from tests.fl_client.made_identity import Authority

Answer = bytes | tuple[int, bytes] | None
"""Body, or status and body, or None: the connection is closed without an answer."""

Respond = Callable[[str, bytes], Answer]
"""(path without the query, body) -> answer."""


@contextmanager
def serving(respond: Respond, context: ssl.SSLContext | None = None) -> Iterator[str]:
    """The address of a server that answers with `respond`, over TLS if it has a context."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            answer = respond(self.path.split("?")[0], body)
            if answer is None:
                self.close_connection = True
                return
            status, data = answer if isinstance(answer, tuple) else (200, answer)
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            with suppress(OSError):  # who asked may have heard enough
                self.wfile.write(data)

        do_POST = do_GET  # noqa: N815

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            pass

        def get_request(self) -> tuple[object, object]:  # type: ignore[override]
            connection, peer = super().get_request()
            if context is None:
                return connection, peer
            # A handshake that fails is the client's business, and ends in `handle_error`.
            return context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False), peer

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def answers(table: Mapping[str, Callable[[], Answer]]) -> Respond:
    """What is answered by path; anything else is an empty 200."""
    return lambda path, body: table.get(path, lambda: b"")()


class Desk:
    """Trust, time and enrolment, by the coordinator's own rules.

    Args:
        root: folder for its database and its TLS key.
        approval: whether an operator approves devices.
    """

    def __init__(self, root: Path, authority: Authority | None = None, *, approval: bool = False) -> None:
        self.authority = authority or Authority.make()
        self.registry = Registry(root / "desk" / "coordinator.db")
        self.context = self.authority.server_context(root / "desk")
        self.rules = DeviceRules(approval=approval)
        self.renewed = datetime.now(UTC)
        """When it last renewed a certificate, or was opened; each time it takes two hours to have passed."""
        self.clock = timedelta()
        """How far the coordinator's clock is ahead."""
        self.lost_answers = 0
        """Requests that will be carried out and not answered."""
        self.bodies: list[tuple[str, bytes]] = []
        self.address = ""

    @contextmanager
    def open(self, *, tls: bool = True) -> Iterator[str]:
        """Serve, and give the address."""
        with serving(self.respond, self.context if tls else None) as self.address:
            yield self.address

    def invite(self, uses: int = 1, ttl: timedelta = timedelta(minutes=5)) -> Invitation:
        return Invitation(self.address, self.authority.pin, make_token(self.registry, ttl, uses))

    def approve(self, device: str) -> None:
        approve(self.registry, self._device_authority, self.rules, device)

    def revoke(self, device: str) -> None:
        revoke(self.registry, device, "lost")

    def respond(self, path: str, body: bytes) -> Answer:
        self.bodies.append((path, body))
        given = self.registry, self._device_authority, self.rules
        if path == "/health":
            return b'{"status":"ok","time":%r}' % (time.time() + self.clock.total_seconds())
        if path == TRUST_PATH:
            return self.authority.trust_statement()
        if path == ENROL_PATH:
            request = read_canonical(EnrolmentRequest, body)
            assert isinstance(request, EnrolmentRequest), request
            return self._carried_out(partial(enrol, *given, request))
        if path == RENEW_PATH:
            return self._carried_out(partial(renew, *given, body, self._later()))
        return 404, b""

    def _later(self) -> datetime:
        # No certificate is renewed that is newer than an hour.
        self.renewed += timedelta(hours=2)
        return self.renewed

    def _carried_out(self, wish: Callable[[], Enrolled]) -> Answer:
        try:
            answer = canonical(wish())
        except FedAudioError as error:
            return 403, canonical(Refused(code=error.code, happened=error.happened, remedy=error.remedy))
        if self.lost_answers:
            self.lost_answers -= 1
            return None
        return answer

    @property
    def _device_authority(self) -> DeviceAuthority:
        return DeviceAuthority((self.authority.ca,), self.authority.ca_key)
