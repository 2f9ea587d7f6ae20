"""What a running device trusts: the statement on its disk, asked for again when it is not enough."""

from __future__ import annotations

import logging
import threading
import time

import httpx

from common.errors import DeviceError, FedAudioError
from common.security.trust import Trust
from fl_client.connection import TOLERANCE, Clock, fetch_trust
from fl_client.home import DeviceHome
from fl_client.identity import keep_trust, read_trust

log = logging.getLogger(__name__)

FRESH_SECONDS = 1.0
"""Younger than this, a statement is not asked for again."""


class KnownTrust:
    """The newest trust statement that the device has seen. Many threads may use it.

    Args:
        pin: fingerprint of the root.
        client: for the coordinator.

    Raises:
        DeviceError: FA-4010, there is none in `home`.
        ProtocolError: as `read_trust`.
    """

    def __init__(self, home: DeviceHome, pin: str, client: httpx.Client, clock: Clock) -> None:
        self._home, self._pin, self._client, self._clock = home, pin, client, clock
        self._trust = read_trust(home, pin)
        self._asked = float("-inf")
        self._lock = threading.Lock()

    def current(self) -> Trust:
        """What is trusted, without asking, unless it has expired.

        Raises:
            DeviceError: FA-4024, it has expired and there is no newer one.
        """
        return self._trust if self._is_valid(self._trust) else self.newest_valid()

    def newest_valid(self) -> Trust:
        """What is trusted, after asking the coordinator.

        Raises:
            DeviceError: FA-4024, as `current`.
        """
        trust = self.newest()
        if not self._is_valid(trust):
            raise DeviceError(
                "FA-4024",
                f"What the coordinator's root says of its keys has expired on {trust.expires:%Y-%m-%d}.",
                "Its operator renews it where the root key is; check this machine's clock, too.",
            )
        return trust

    def newest(self) -> Trust:
        """What is trusted, after asking the coordinator; what is known already if it does not answer."""
        with self._lock:
            if time.monotonic() - self._asked > FRESH_SECONDS:
                try:
                    self._trust = keep_trust(self._home, fetch_trust(self._client), self._pin)
                except FedAudioError as error:
                    log.warning("no newer trust statement: %s", error)
                self._asked = time.monotonic()
            return self._trust

    def _is_valid(self, trust: Trust) -> bool:
        return trust.created - TOLERANCE <= self._clock.now() <= trust.expires + TOLERANCE
