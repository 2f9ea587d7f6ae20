"""Who may speak to a socket of this device. One rule for the local API and for sound over a WebSocket."""

from __future__ import annotations

import hmac
import logging
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from common.errors import DeviceError, FedAudioError
from fl_client.secret_file import read_secret

log = logging.getLogger(__name__)

SUBPROTOCOL = "fedaudio"
"""What a WebSocket speaks, and before a dot and the token a second name it may offer: browsers cannot send
an Authorization header with a WebSocket.
"""

OWN_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})

Headers = Iterable[tuple[str, str]]


class Objection(NamedTuple):
    """Why a request is refused: an HTTP status, and one sentence."""

    status: int
    reason: str


@dataclass(frozen=True)
class Callers:
    """Tells requests of the owner's programs from those of web pages and strangers.

    A web page in the owner's browser can reach loopback: so nothing is answered that names another origin, or
    that calls this machine by a name of the page's choosing (DNS rebinding). An address is no such name: the
    connection's own is always right. A token is asked for wherever there is one; without one, only loopback
    is served.

    Args:
        host: address that is listened on.
        token: file that holds it, if any; read for each request, so a new token counts at once.
        names: of this machine, beside `OWN_NAMES` and `host`.
    """

    host: str
    token: Path | None
    names: tuple[str, ...] = ()

    def objection(self, headers: Headers, address: str | None) -> Objection | None:
        """What speaks against a request with these headers, their names in lower case.

        Args:
            address: our end of its connection; None if that is not known.
        """
        found: dict[str, list[str]] = {}
        for name, value in headers:
            found.setdefault(name, []).append(value)
        hosts = found.get("host", [])
        if len(hosts) != 1 or not self._is_own(hosts[0], address or self.host):
            return Objection(403, "This machine is not called so.")
        own = {f"http://{hosts[0]}", f"https://{hosts[0]}"}
        foreign = set(found.get("sec-fetch-site", [])) & {"cross-site", "same-site"}
        if foreign or not own.issuperset(found.get("origin", [])):
            return Objection(403, "Web pages of another origin are not answered.")
        return self._token_objection(found)

    def listen(self, port: int) -> socket.socket:
        """A socket that listens.

        Raises:
            DeviceError: FA-4230, strangers could reach it and there is no token; FA-4231, it cannot be had;
                FA-4232.
            StorageError: FA-8001.
        """
        if self._read_token() is None and not self._loopback:
            raise DeviceError(
                "FA-4230",
                f"{self.host} can be reached by others, and there is no token that they would have to know.",
                "Run `fedaudio client outlet token`, or listen on 127.0.0.1.",
            )
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            return socket.create_server((self.host, port), family=family, backlog=16)
        except OSError as error:
            raise DeviceError(
                "FA-4231",
                f"Nothing can listen on {self.host} port {port}: {error.strerror or error}.",
                "Choose another address or port, or end the program that has it.",
            ) from error

    @property
    def _loopback(self) -> bool:
        return ip_address(self.host).is_loopback

    def _is_own(self, host: str, address: str) -> bool:
        name = re.sub(r":\d{1,5}$", "", host).lower()
        addresses = {self.host, address, f"[{self.host}]", f"[{address}]"}
        return name in OWN_NAMES | addresses | set(map(str.lower, self.names))

    def _read_token(self) -> str | None:
        return None if self.token is None else read_secret(self.token)

    def _token_objection(self, found: dict[str, list[str]]) -> Objection | None:
        try:
            token = self._read_token()
        except FedAudioError as error:
            _say_once(error.happened)
            return Objection(403, "The token on this machine cannot be read; its log says why.")
        if token is None:
            return None if self._loopback else Objection(401, "There is no token any more.")
        # Compared with each, so that the time tells nothing about them.
        fits = [
            hmac.compare_digest(token.encode(), given.encode(errors="replace")) for given in _tokens(found)
        ]
        return None if any(fits) else Objection(401, "A token is needed; it is in the device's folder.")


def offers_subprotocol(headers: Headers) -> bool:
    """Whether a WebSocket would have `SUBPROTOCOL` chosen."""
    return any(SUBPROTOCOL in _listed(value) for name, value in headers if name == "sec-websocket-protocol")


def _tokens(found: dict[str, list[str]]) -> list[str]:
    bearers = [
        value[7:].strip() for value in found.get("authorization", []) if value[:7].lower() == "bearer "
    ]
    offered = [name for value in found.get("sec-websocket-protocol", []) for name in _listed(value)]
    begin = f"{SUBPROTOCOL}."
    return bearers + [name.removeprefix(begin) for name in offered if name.startswith(begin)]


def _listed(value: str) -> list[str]:
    return [part.strip() for part in value.split(",")]


@cache
def _say_once(trouble: str) -> None:
    # Else strangers could fill the log.
    log.warning("nobody is answered: %s", trouble)
