"""How a device reaches its coordinator: TLS 1.3 under the pinned root, or plain HTTP on this machine."""

from __future__ import annotations

import ssl
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import BaseModel, Field, ValidationError

from common.errors import DeviceError
from common.loopback import is_this_machine
from common.protocol.enrolment import TRUST_PATH, Refused
from common.security.canonical import Model
from common.security.trust import LARGEST_TRUST, Trust
from fl_client.settings import DeviceSettings

TIMEOUT_SECONDS = 30.0

LARGEST_ANSWER = 64 << 10

TOLERANCE = timedelta(minutes=15)
"""How far this machine's clock may be from the coordinator's."""

_NOT_YET_VALID, _EXPIRED = 9, 10
"""X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED of OpenSSL."""


class RefusedError(DeviceError):
    """FA-4014: the coordinator has said no, and why."""

    def __init__(self, reason: Refused) -> None:
        super().__init__(
            "FA-4014",
            f"The coordinator refuses this device ({reason.code}): {reason.happened}",
            reason.remedy,
        )
        self.reason = reason


class UnreachableError(DeviceError):
    """FA-4012: nobody answers."""

    def __init__(self, server: str, error: Exception) -> None:
        super().__init__(
            "FA-4012",
            f"The coordinator at {server} cannot be reached: {str(error)[:200] or type(error).__name__}.",
            "Check the network and the address, and that the coordinator runs.",
        )


class Clock:
    """This machine's clock, put right by the coordinator's."""

    def __init__(self) -> None:
        self._offset = timedelta()

    def now(self) -> datetime:
        """The time by the coordinator's clock, as far as it is known."""
        return datetime.now(UTC) + self._offset

    def learn(self, theirs: datetime) -> None:
        """Take note of what the coordinator's clock says just now.

        Raises:
            DeviceError: FA-4015, one of the two clocks is wrong.
        """
        ours = datetime.now(UTC)
        if abs(theirs - ours) > TOLERANCE:
            raise clock_wrong(f"the coordinator's says {theirs:%Y-%m-%d %H:%M:%S} UTC", ours)
        self._offset = theirs - ours


def clock_wrong(they_say: str, ours: datetime) -> DeviceError:
    """The error of a clock that nobody can work with."""
    return DeviceError(
        "FA-4015",
        f"This machine's clock says {ours:%Y-%m-%d %H:%M:%S} UTC, and {they_say}.",
        "Set it (timedatectl set-ntp true); if it is right, tell the coordinator's operator.",
    )


@dataclass(frozen=True)
class Access:
    """How a device's Flower node gets in.

    Args:
        server: host:port.
        key: of the node, which the coordinator made when the device was enrolled.
        context: TLS, pinned; None for plain HTTP on this machine, where the link makes a node with the key.
        clock: put right by the coordinator's, for requests are signed with the time.
    """

    server: str
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    context: ssl.SSLContext | None
    clock: Clock


def pinned_context(trust: Trust) -> ssl.SSLContext:
    """TLS 1.3 with whom the root of `trust` has certified, under the name it was certified for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=trust.root)
    return context


def make_client(settings: DeviceSettings, trust: Trust | None, *, insecure: bool) -> httpx.Client:
    """A client for the coordinator of `settings`.

    Args:
        trust: its root is pinned; None asks whoever answers, for a trust statement and nothing else.
        insecure: no TLS, on this machine only.

    Raises:
        DeviceError: FA-4009, `insecure` with a coordinator on another machine.
    """
    return client_to(settings.server, trust, insecure=insecure)


def client_to(server: str, trust: Trust | None, *, insecure: bool) -> httpx.Client:
    """As `make_client`, for a coordinator at `server` (host:port)."""
    if insecure:
        require_loopback(server)
    return httpx.Client(
        base_url=f"{'http' if insecure else 'https'}://{server}",
        verify=_anybody() if trust is None else pinned_context(trust),
        timeout=TIMEOUT_SECONDS,
        headers={"accept-encoding": "identity"},
        trust_env=False,
    )


def require_loopback(server: str) -> None:
    """Return if `server` (host:port) is this machine, by address.

    Raises:
        DeviceError: FA-4009.
    """
    host = server.rpartition(":")[0].strip("[]")
    if not is_this_machine(host):
        raise DeviceError(
            "FA-4009",
            f"--insecure-loopback is for a coordinator at 127.0.0.1 or ::1, not at {server}.",
            "Leave the option out: the connection is then encrypted and checked.",
        )


def exchange(
    client: httpx.Client,
    method: str,
    path: str,
    content: bytes | None = None,
    *,
    limit: int = LARGEST_ANSWER,
) -> bytes:
    """Ask the coordinator for something small.

    Args:
        limit: largest answer that is read, in bytes.

    Raises:
        DeviceError: FA-4012 it cannot be reached, FA-4013 its answer is not one, FA-4014 it refuses,
            FA-4015 a clock is wrong, FA-4016 somebody else answers in its place.
    """
    server = client.base_url.netloc.decode()
    data, deadline = bytearray(), time.monotonic() + TIMEOUT_SECONDS
    try:
        with client.stream(method, path, content=content) as response:
            for part in response.iter_raw():
                data += part
                if len(data) > limit:
                    raise _garbage(server, path, "it is too long")
                if time.monotonic() > deadline:
                    raise _garbage(server, path, "it never ends")
    except (httpx.HTTPError, ssl.SSLError) as error:
        raise connection_error(server, error) from error
    if response.is_error:
        raise refusal_of(bytes(data)) or _garbage(server, path, f"its status is {response.status_code}")
    if response.status_code != httpx.codes.OK:
        raise _garbage(server, path, f"its status is {response.status_code}")
    return bytes(data)


def refusal_of(body: bytes) -> RefusedError | None:
    """What an answer of status 4xx says in words; None if it says nothing."""
    try:
        return RefusedError(Refused.model_validate_json(body))
    except ValidationError:
        return None


def read_answer(client: httpx.Client, path: str, model: type[Model], data: bytes) -> Model:
    """The coordinator's answer as a `model`.

    Raises:
        DeviceError: FA-4013.
    """
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise _garbage(client.base_url.netloc.decode(), path, "it is malformed") from error


def fetch_trust(client: httpx.Client) -> bytes:
    """The coordinator's trust statement, not yet checked.

    Raises:
        DeviceError: as `exchange`.
    """
    return exchange(client, "GET", TRUST_PATH, limit=LARGEST_TRUST)


class _Health(BaseModel):
    time: float = Field(ge=0, le=253_402_300_799, allow_inf_nan=False, description="seconds since 1970")


def learn_time(client: httpx.Client, clock: Clock) -> None:
    """Set `clock` by the coordinator's.

    Raises:
        DeviceError: as `exchange`, FA-4015 the clocks are too far apart.
    """
    answer = read_answer(client, "/health", _Health, exchange(client, "GET", "/health"))
    clock.learn(datetime.fromtimestamp(answer.time, UTC))


def connection_error(server: str, error: Exception) -> DeviceError:
    """Why there is no connection, in words."""
    fault = _tls_fault(error)
    if fault is not None and fault.verify_code in (_NOT_YET_VALID, _EXPIRED):
        validity = "is not valid yet" if fault.verify_code == _NOT_YET_VALID else "has expired"
        return clock_wrong(f"by it the coordinator's certificate {validity}", datetime.now(UTC))
    if fault is not None:
        return DeviceError(
            "FA-4016",
            f"Who answers at {server} is not this device's coordinator: {fault.verify_message}.",
            "Somebody may pose as it; check the address and the network, and ask the coordinator's operator.",
        )
    return UnreachableError(server, error)


def _tls_fault(error: BaseException | None) -> ssl.SSLCertVerificationError | None:
    """The fault in the other side's certificate that is behind `error`, if that is what it is."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return error
        error = error.__cause__ or error.__context__
    return None


def _anybody() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _garbage(server: str, path: str, why: str) -> DeviceError:
    return DeviceError(
        "FA-4013",
        f"What {server} answers at {path} is not from a coordinator: {why}.",
        "Check the address; update the device and the coordinator to the same version.",
    )
