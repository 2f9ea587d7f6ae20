"""Who may speak to the Fleet API: devices by the key that their Flower node authenticates with.

The registry is asked again whenever anybody has changed it, so a revocation counts from the next message on.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from common.errors import ProtocolError
from common.security.certificates import DeviceCertificate, node_digest
from fl_server.authority import DeviceAuthority
from fl_server.refusal import RefusedError
from fl_server.registry import Device, expired, pending, revoked

_QUERY = """
    SELECT id, name, state, identity, certificate FROM devices WHERE node_key = ?
    ORDER BY state = 'active' DESC, enrolled DESC LIMIT 1
"""


@dataclass(frozen=True)
class Member:
    """A device that was ever enrolled, as the registry has it.

    Args:
        certificate: None if it has none, or none of our CA that names this device and both its keys.
    """

    row: Device = field(repr=False)
    node_key: EllipticCurvePublicKey = field(repr=False)
    certificate: DeviceCertificate | None

    @property
    def device(self) -> str:
        return self.row.id

    def check(self, now: datetime | None = None) -> None:
        """Return if the device may take part.

        Raises:
            CoordinatorError: FA-5048 it is revoked, FA-5053 it waits for approval, FA-5084 it has no good
                certificate, FA-5052 its certificate has expired.
        """
        if self.row.state == "revoked":
            raise revoked(self.row)
        if self.row.state != "active":
            raise pending(self.row)
        if self.certificate is None:
            raise RefusedError(
                403,
                "FA-5084",
                "This device's certificate is not this coordinator's, or is for another key.",
                "Enrol the device anew: fedaudio client enroll",
            )
        if self.certificate.ends < (now or datetime.now(UTC)):
            raise expired(self.row)


class Roster:
    """Devices by node key, as the registry has them now.

    For one thread. Raises `sqlite3.Error` when the registry cannot be read: nobody is let in then.

    Args:
        database: coordinator.db, which is only read.
        authority: who certifies devices.
    """

    def __init__(self, database: Path, authority: DeviceAuthority) -> None:
        self._connection = sqlite3.connect(
            f"file:{quote(str(database))}?mode=ro", uri=True, isolation_level=None, timeout=1.0
        )
        self._authority = authority
        self._rows: dict[bytes, tuple[str, ...]] = {}
        self._members: dict[bytes, Member] = {}
        self._asked: set[bytes] = set()
        self._stamp: int | None = None

    def find(self, node_key: bytes) -> Member | None:
        """The device whose node has the public key `node_key` (PEM); None if there is none."""
        (stamp,) = self._connection.execute("PRAGMA data_version").fetchone()
        if stamp != self._stamp:
            self._asked.clear()
            self._stamp = stamp
        if node_key not in self._asked:
            self._ask(node_key)
        return self._members.get(node_key)

    def close(self) -> None:
        """Let go of the registry."""
        self._connection.close()

    def _ask(self, node_key: bytes) -> None:
        row = self._connection.execute(_QUERY, (node_key.decode("ascii", "replace"),)).fetchone()
        if row is None:
            # Strangers are not remembered: they could be many.
            self._rows.pop(node_key, None)
            self._members.pop(node_key, None)
            return
        if self._rows.get(node_key) != row:
            self._members[node_key] = self._read(node_key, row)
            self._rows[node_key] = row
        self._asked.add(node_key)

    def _read(self, node_key: bytes, row: tuple[str, ...]) -> Member:
        identifier, name, state, identity, certificate = row
        device = Device(
            id=identifier,
            name=name,
            state=state,
            identity=identity,
            certificate=certificate,
            node_key=node_key.decode(),
            token="",
            enrolled=datetime.now(UTC),
        )
        key = load_pem_public_key(node_key)
        if not isinstance(key, EllipticCurvePublicKey):
            raise TypeError("the registry holds a node key that is not an elliptic curve's")
        try:
            said = self._authority.read(device.certificate)
        except ProtocolError:
            return Member(device, key, None)
        named = (said.device, said.identity.hex(), said.node)
        return Member(device, key, said if named == (device.id, device.identity, node_digest(key)) else None)
