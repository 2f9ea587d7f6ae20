"""Keys to seal with: HPKE (RFC 9180, base mode), by default a hybrid of ML-KEM-768 and X25519.

The hybrid keeps what was recorded today from whoever has a quantum computer tomorrow. It is X-Wing
(draft-connolly-cfrg-xwing-kem); `cryptography` implements both.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from common.errors import ProtocolError

MLKEM_BYTES, X25519_BYTES = 1184, 32


class Suite(IntEnum):
    """What an envelope is sealed with: a KEM, and HKDF-SHA256 with AES-256-GCM."""

    X25519 = 1
    HYBRID = 2


_HPKE = {
    Suite.X25519: hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM),
    Suite.HYBRID: hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM),
}
OVERHEAD = {Suite.X25519: 32 + 16, Suite.HYBRID: 1088 + 32 + 16}
"""Bytes that sealing adds: the encapsulated key and the AEAD's tag."""

_Public: TypeAlias = X25519PublicKey | hpke.MLKEM768X25519PublicKey


@dataclass(frozen=True)
class SealingKey:
    """The public half. `raw` is the X25519 key, after the ML-KEM-768 key in the hybrid."""

    suite: Suite
    raw: bytes

    @cached_property
    def id(self) -> bytes:
        """Eight bytes that name the key."""
        return hashlib.sha256(bytes([self.suite]) + self.raw).digest()[:8]

    def seal(self, plaintext: bytes, info: bytes) -> bytes:
        """`plaintext` for the holder of the private half alone, bound to `info`.

        Raises:
            ProtocolError: FA-3019, the key is not one.
        """
        try:
            return _HPKE[self.suite].encrypt(plaintext, self._public(), info=info)
        except ValueError as error:  # of the wrong length, or a point of small order
            raise ProtocolError(
                "FA-3019", "The coordinator's envelope key is malformed.", "Ask its operator to rotate it."
            ) from error

    def _public(self) -> _Public:
        if len(self.raw) != (MLKEM_BYTES if self.suite is Suite.HYBRID else 0) + X25519_BYTES:
            raise ValueError("a key of another length")
        x25519 = X25519PublicKey.from_public_bytes(self.raw[-X25519_BYTES:])
        if self.suite is Suite.X25519:
            return x25519
        mlkem = MLKEM768PublicKey.from_public_bytes(self.raw[:MLKEM_BYTES])
        return hpke.MLKEM768X25519PublicKey(mlkem, x25519)


@dataclass(frozen=True)
class OpeningKey:
    """The private half; `mlkem` is there in the hybrid only."""

    x25519: X25519PrivateKey
    mlkem: MLKEM768PrivateKey | None

    @classmethod
    def generate(cls, suite: Suite) -> OpeningKey:
        """A fresh key, from the operating system's randomness."""
        mlkem = MLKEM768PrivateKey.generate() if suite is Suite.HYBRID else None
        return cls(X25519PrivateKey.generate(), mlkem)

    @cached_property
    def public(self) -> SealingKey:
        """The public half."""
        x25519 = self.x25519.public_key().public_bytes_raw()
        if self.mlkem is None:
            return SealingKey(Suite.X25519, x25519)
        return SealingKey(Suite.HYBRID, self.mlkem.public_key().public_bytes_raw() + x25519)

    def open(self, sealed: bytes | memoryview, info: bytes) -> bytes:
        """What was sealed for this key with this `info`.

        Raises:
            ProtocolError: FA-3020, it was not, or it was changed.
        """
        try:
            if self.mlkem is None:
                return _HPKE[Suite.X25519].decrypt(sealed, self.x25519, info=info)
            hybrid = hpke.MLKEM768X25519PrivateKey(self.mlkem, self.x25519)
            return _HPKE[Suite.HYBRID].decrypt(sealed, hybrid, info=info)
        except InvalidTag as error:
            raise ProtocolError(
                "FA-3020", "The envelope cannot be opened with the coordinator's key.", "Restart the device."
            ) from error
