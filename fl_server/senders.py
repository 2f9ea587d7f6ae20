"""Who may send an answer at this moment, looked up once for every answer that comes in."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field
from typing import Any

from common.files import StorageError
from fl_server.registry import Registry

# SQLite compares the time itself: what Python would do for each update takes longer than the lookup.
_ACTIVE = """
    SELECT name, identity, counter FROM devices
    WHERE id = ? AND state = 'active' AND expires >= strftime('%Y-%m-%d %H:%M:%f', 'now')
"""


@dataclass(frozen=True)
class Sender:
    """A device that may take part.

    Args:
        identity: raw Ed25519 key that it signs with now.
        counter: of the newest envelope that was accepted before this exchange.
    """

    id: str
    name: str
    identity: bytes = field(repr=False)
    counter: int


class Senders:
    """Devices by id, as the database has them now: an operator may revoke one at any moment.

    A lookup is on the way of every update, so it goes past SQLAlchemy: 4 us instead of 150.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._connection = sqlite3.connect(registry.path, check_same_thread=False)

    def active(self, device: str) -> Sender:
        """The device with this id.

        Raises:
            CoordinatorError: FA-5050 unknown, FA-5053 not yet approved, FA-5048 revoked, FA-5052 its
                certificate has expired.
            StorageError: FA-8001.
        """
        row = self._row(_ACTIVE, device)
        if row is not None:
            name, identity, counter = row
            return Sender(device, name, bytes.fromhex(identity), counter)
        found = self._registry.active_device(device)  # says in words why not
        return Sender(found.id, found.name, bytes.fromhex(found.identity), found.counter)

    def may_take_part(self, device: str) -> bool:
        """Whether the device is enrolled, not revoked, and its certificate is good.

        Raises:
            StorageError: FA-8001.
        """
        return self._row(_ACTIVE, device) is not None

    def name(self, device: str) -> str | None:
        """What the device with this id is called, whatever its state; None if there is none.

        Raises:
            StorageError: FA-8001.
        """
        row = self._row("SELECT name FROM devices WHERE id = ?", device)
        return None if row is None else row[0]

    def is_revoked(self, device: str) -> bool:
        """Whether the device was put out.

        Raises:
            StorageError: FA-8001.
        """
        return self._row("SELECT 1 FROM devices WHERE id = ? AND state = 'revoked'", device) is not None

    def close(self) -> None:
        """Let go of the database."""
        self._connection.close()

    def _row(self, query: str, device: str) -> tuple[Any, ...] | None:
        try:
            row: tuple[Any, ...] | None = self._connection.execute(query, (device,)).fetchone()
        except sqlite3.Error as error:
            raise StorageError(
                "FA-8001",
                f"{self._registry.path} could not be read: {error}.",
                "Free some space or make the folder readable, then try again.",
            ) from error
        return row
