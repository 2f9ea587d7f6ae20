"""Signed statements: plans, trust, releases, requests of a device. Layout in docs/protocol.md, section 2.

    "FAS1" | signer key id (8) | Ed25519 signature (64) | body

The signature is over "fedaudio/<kind>/v1" | 0 | SHA-256(body), so a statement of one kind is none of another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from common.errors import ProtocolError

Kind = Literal["trust", "plan", "release", "renewal"]

MAGIC = b"FAS1"
SIGNATURE_BYTES = 76
"""Everything before the body: a detached signature."""


def key_id(public: bytes) -> bytes:
    """Eight bytes that name a public key, given raw: the start of its SHA-256."""
    return hashlib.sha256(public).digest()[:8]


def raw_public(key: Ed25519PrivateKey) -> bytes:
    """The 32 bytes of the public half of `key`."""
    return key.public_key().public_bytes_raw()


def sign_detached(kind: Kind, body: bytes, key: Ed25519PrivateKey) -> bytes:
    """The signature of `body`, to travel beside it: `SIGNATURE_BYTES` bytes."""
    return MAGIC + key_id(raw_public(key)) + key.sign(_signed(kind, body))


def check_detached(kind: Kind, signature: bytes, body: bytes, signers: Iterable[bytes]) -> bytes:
    """Check `signature` of `body` and return the raw public key it was made with.

    Args:
        signers: raw Ed25519 public keys that may sign this kind of statement.

    Raises:
        ProtocolError: FA-3016 malformed, FA-3017 by a key that may not, FA-3018 the signature is wrong.
    """
    if len(signature) != SIGNATURE_BYTES or signature[:4] != MAGIC:
        raise ProtocolError("FA-3016", f"The signature of the {kind} is malformed.", _UPDATE)
    signer = next((public for public in signers if key_id(public) == signature[4:12]), None)
    if signer is None:
        raise ProtocolError(
            "FA-3017", f"The {kind} is signed by a key that may not sign it ({signature[4:12].hex()}).", _ASK
        )
    try:
        Ed25519PublicKey.from_public_bytes(signer).verify(signature[12:], _signed(kind, body))
    except (InvalidSignature, ValueError) as error:
        raise ProtocolError("FA-3018", f"The signature of the {kind} is wrong.", _ASK) from error
    return signer


def sign_statement(kind: Kind, body: bytes, key: Ed25519PrivateKey) -> bytes:
    """`body` after its signature."""
    return sign_detached(kind, body, key) + body


def open_statement(kind: Kind, data: bytes, signers: Iterable[bytes]) -> bytes:
    """Check a statement and return its body.

    Raises:
        ProtocolError: FA-3016..FA-3018, as `check_detached`.
    """
    signature, body = data[:SIGNATURE_BYTES], data[SIGNATURE_BYTES:]
    check_detached(kind, signature, body, signers)
    return body


def _signed(kind: Kind, body: bytes) -> bytes:
    return b"fedaudio/%s/v1\0" % kind.encode() + hashlib.sha256(body).digest()


_UPDATE = "Update both sides to the same version."
_ASK = "Ask the coordinator's operator; it may be a forgery."
