"""How much, how often and how slowly somebody may ask."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections import OrderedDict
from collections.abc import Mapping

from starlette.types import Receive

from fl_server.refusal import RefusedError

SLOWEST_BYTES_A_SECOND = 32 << 10
"""Of an upload. Flower gives up on a part of 5 MB after 180 s."""

LEAST_SECONDS = 20.0
"""That a body may take, however short it is."""


class Bucket:
    """A token bucket: so many at once, and so many a second.

    Args:
        burst: tokens it holds when it is full, as it is at first.
        rate: tokens that are added a second.
    """

    def __init__(self, burst: float, rate: float) -> None:
        self._burst, self._rate = burst, rate
        self._level, self._at = burst, time.monotonic()

    def level(self) -> float:
        """Tokens in it now."""
        now = time.monotonic()
        self._level = min(self._burst, self._level + (now - self._at) * self._rate)
        self._at = now
        return self._level

    def take(self) -> bool:
        """Take a token, if there is a whole one."""
        if self.level() < 1:
            return False
        self._level -= 1
        return True


class Buckets:
    """A bucket for each address that took from one lately.

    Args:
        burst, rate: of each, as of `Bucket`.
        addresses: of which so many are remembered at most, the latest.
    """

    def __init__(self, burst: float, rate: float, addresses: int = 10_000) -> None:
        self._burst, self._rate, self._addresses = burst, rate, addresses
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def take(self, address: str) -> bool:
        """Take a token from the bucket of `address`, if there is a whole one."""
        place = neighbourhood(address)
        bucket = self._buckets.pop(place, None) or Bucket(self._burst, self._rate)
        self._buckets[place] = bucket
        if len(self._buckets) > self._addresses:
            self._buckets.popitem(last=False)
        return bucket.take()

    def is_empty(self, address: str) -> bool:
        """Whether no token is left in the bucket of `address`."""
        bucket = self._buckets.get(neighbourhood(address))
        return bucket is not None and bucket.level() < 1


class Pace(Buckets):
    """At which an address may connect, and ask what anybody may ask: a thousand devices may be behind it."""

    def __init__(self, burst: float = 3000, rate: float = 500) -> None:
        super().__init__(burst, rate)


class Failures:
    """Failed attempts by address; who has too many is not heard for a while.

    Args:
        most: failures that are forgiven at once; and as many again each minute.
        addresses: as for `Buckets`.
    """

    def __init__(self, most: int = 30, addresses: int = 10_000) -> None:
        self._most = most
        self._buckets = Buckets(most, most / 60, addresses)

    def check(self, address: str) -> None:
        """Return if attempts from `address` are heard.

        Raises:
            RefusedError: FA-5092.
        """
        if self._buckets.is_empty(address):
            raise RefusedError(
                429,
                "FA-5092",
                "Too many attempts to enrol have failed from this network address.",
                "Wait a minute; ask the coordinator's operator for a new enrolment string.",
                retry_seconds=max(1, round(60 / self._most)),
            )

    def note(self, address: str) -> None:
        """One more attempt has failed."""
        self._buckets.take(address)


def neighbourhood(address: str) -> str:
    """What counts as one address: an IPv4 address, or the /64 that one IPv6 subscriber has."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        mapped = parsed.ipv4_mapped
        return str(mapped or ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)


def announced_length(headers: Mapping[bytes, bytes], limit: int) -> int:
    """Bytes of the body that is announced; the server holds the sender to it.

    Raises:
        RefusedError: FA-5086, it is longer than `limit` or does not say how long it is.
    """
    length = headers.get(b"content-length", b"0")
    sane = len(length) <= 12 and length.isdigit() and b"transfer-encoding" not in headers
    if not sane or int(length) > limit:
        raise too_large(f"A request of this kind may have {limit} bytes, and must say how many it has.")
    return int(length)


def too_often(happened: str) -> RefusedError:
    """The error of who asks more often than allowed."""
    return RefusedError(
        429, "FA-5087", happened, "Update the device; if it stays, ask the operator.", retry_seconds=1
    )


def too_large(happened: str) -> RefusedError:
    """The error of who sends more than allowed."""
    return RefusedError(413, "FA-5086", happened, "Update the device; if it stays, ask the operator.")


async def read_body(receive: Receive, length: int) -> bytes | None:
    """A body of `length` bytes; None if its sender left before its end.

    Raises:
        RefusedError: FA-5089, it takes too long.
    """
    parts: list[bytes] = []
    try:
        async with asyncio.timeout(LEAST_SECONDS + length / SLOWEST_BYTES_A_SECOND):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    return None
                parts.append(message.get("body", b""))
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        raise RefusedError(
            408, "FA-5089", "The request took too long to arrive.", "Check the device's network connection."
        ) from None
