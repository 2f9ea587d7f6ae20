"""The one string that an operator gives to a device: where the coordinator is, its pin, and a token.

    "fa1_" | base64url( token (16) | SHA-256 of the root certificate (32) | address (UTF-8) | checksum (4) )

The checksum (the start of the SHA-256 of what is before it) finds typing errors. The string holds no
character that a shell minds.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import secrets
from dataclasses import dataclass

from common.errors import ConfigError

PREFIX = "fa1_"
TOKEN_BYTES = 16
_PIN_BYTES, _CHECKSUM_BYTES, _LONGEST = 32, 4, 1024
ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9.-]{1,253}):([1-9][0-9]{0,4})")


@dataclass(frozen=True)
class Invitation:
    """What the string says.

    Args:
        address: host:port.
        pin: fingerprint of the coordinator's root, hexadecimal.
        token: secret; good for one enrolment, or as many as the operator said.
    """

    address: str
    pin: str
    token: bytes

    def __str__(self) -> str:
        data = self.token + bytes.fromhex(self.pin) + self.address.encode()
        return PREFIX + base64.urlsafe_b64encode(data + _checksum(data)).decode().rstrip("=")

    def __repr__(self) -> str:
        return f"Invitation({self.address!r}, pin={self.pin[:16]!r}...)"

    @classmethod
    def new(cls, address: str, pin: str) -> Invitation:
        """An invitation with a fresh token.

        Raises:
            ConfigError: FA-6009, `address` cannot be one.
        """
        if not _is_address(address):
            raise ConfigError(
                "FA-6009",
                f"{address} cannot be the address in an enrolment string.",
                "Give host:port; the host is a name, an IPv4 address, or an IPv6 address in brackets.",
            )
        return cls(address, pin, secrets.token_bytes(TOKEN_BYTES))

    @classmethod
    def parse(cls, text: str) -> Invitation:
        """Read the string.

        Raises:
            ConfigError: FA-6009, it is not one or was mistyped. The message never repeats it.
        """
        text = text.strip()
        body = text.removeprefix(PREFIX)
        try:
            if len(text) > _LONGEST or body == text:
                raise ValueError("not an invitation")
            data = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
            rest, check = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
            token, pin = rest[:TOKEN_BYTES], rest[TOKEN_BYTES : TOKEN_BYTES + _PIN_BYTES]
            address = rest[TOKEN_BYTES + _PIN_BYTES :].decode("ascii")
            if (
                check != _checksum(rest)
                or not _is_address(address)
                or str(cls(address, pin.hex(), token)) != text
            ):
                raise ValueError("not an invitation")
        except (ValueError, UnicodeError, binascii.Error):
            raise ConfigError(
                "FA-6009",
                "The enrolment string is not whole.",
                "Copy all of what `fedaudio server devices token` printed.",
            ) from None
        return cls(address, pin.hex(), token)


def _is_address(text: str) -> bool:
    match = ADDRESS.fullmatch(text)
    return match is not None and int(match[2]) < 1 << 16


def _checksum(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:_CHECKSUM_BYTES]
