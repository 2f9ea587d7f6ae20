"""What a device trusts: the root it was enrolled under, and the keys that the root says are in use."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Annotated

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import AwareDatetime, Field

from common.errors import ProtocolError
from common.security.canonical import read_canonical
from common.security.certificates import UNREADABLE
from common.security.sealing import SealingKey, Suite
from common.security.statement import SIGNATURE_BYTES, open_statement
from common.settings import Settings

LARGEST_TRUST = 64 << 10

PublicKey = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A raw Ed25519 public key in hexadecimal."""


class EnvelopeKey(Settings):
    """A public key to seal to."""

    suite: Suite
    key: str = Field(pattern=r"^([0-9a-f]{64}|[0-9a-f]{2432})$")

    def sealing_key(self) -> SealingKey:
        """The same, to use."""
        return SealingKey(self.suite, bytes.fromhex(self.key))


class Trust(Settings):
    """Signed by the root, and newer than any with a lower serial number. Other keys are not trusted.

    `root` and `device_ca` are PEM certificates; the first of `device_ca`, `plan`, `release` and `envelope` is
    in use, the others are honoured for what was signed before.
    """

    serial: int = Field(ge=1, le=2**53)
    created: AwareDatetime
    expires: AwareDatetime
    root: str = Field(max_length=8192)
    device_ca: str = Field(max_length=8192)
    plan: tuple[PublicKey, ...] = Field(min_length=1, max_length=8)
    release: tuple[PublicKey, ...] = Field(min_length=1, max_length=8)
    envelope: tuple[EnvelopeKey, ...] = Field(min_length=1, max_length=8)

    def plan_keys(self) -> list[bytes]:
        """Raw keys that may sign plans."""
        return [bytes.fromhex(key) for key in self.plan]

    def release_keys(self) -> list[bytes]:
        """Raw keys that may sign releases."""
        return [bytes.fromhex(key) for key in self.release]

    def envelope_key(self, name: bytes) -> SealingKey | None:
        """The envelope key with the id `name`, if it is trusted."""
        keys = (entry.sealing_key() for entry in self.envelope)
        return next((key for key in keys if key.id == name), None)


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of a certificate (DER) in hexadecimal. That of the root names the coordinator; it is pinned."""
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def open_trust(data: bytes, pin: str, at_least: int = 1) -> Trust:
    """Read a trust statement and check that the root with fingerprint `pin` signed it.

    Args:
        at_least: serial number below which a statement is old and is refused.

    Raises:
        ProtocolError: FA-3025 malformed, FA-3026 under another root, FA-3016..FA-3018 its signature,
            FA-3027 older than one that was seen before.
    """
    if len(data) > LARGEST_TRUST:
        raise _malformed("it is too long")
    # The root is inside; nothing is believed before its fingerprint and its signature are checked.
    body = data[SIGNATURE_BYTES:]
    trust = read_canonical(Trust, body)
    if isinstance(trust, str):
        raise _malformed(trust)
    try:
        root = x509.load_pem_x509_certificate(trust.root.encode())
        key = root.public_key()
    except UNREADABLE as error:
        raise _malformed("its root is not a certificate") from error
    if fingerprint(root) != pin or not isinstance(key, Ed25519PublicKey):
        raise ProtocolError(
            "FA-3026",
            f"The trust statement is under the root {fingerprint(root)[:16]}..., not {pin[:16]}...",
            "Somebody may pose as your coordinator; ask its operator.",
        )
    open_statement("trust", data, [key.public_bytes_raw()])
    if trust.serial < at_least:
        raise ProtocolError(
            "FA-3027",
            f"The trust statement has serial {trust.serial}, and {at_least} was seen before.",
            "Ask the coordinator's operator; somebody may be replaying an old one.",
        )
    return trust


def check_time(begins: datetime, ends: datetime, what: str, now: datetime | None = None) -> None:
    """Return if `now` (by default, this moment) is between `begins` and `ends`.

    Raises:
        ProtocolError: FA-3028, naming this machine's clock, which is as likely to be wrong.
    """
    now = now or datetime.now(UTC)
    if not begins <= now <= ends:
        when = f"{begins:%Y-%m-%d %H:%M} to {ends:%Y-%m-%d %H:%M} UTC"
        raise ProtocolError(
            "FA-3028",
            f"The {what} is valid from {when}, and this machine's clock says {now:%Y-%m-%d %H:%M}.",
            "Set the clock; if it is right, ask the coordinator's operator.",
        )


def _malformed(why: str) -> ProtocolError:
    return ProtocolError("FA-3025", f"The trust statement is malformed: {why}.", "Update the device.")
