"""The envelope of a device's answer: sealed to the coordinator, then signed. docs/protocol.md, section 4.

    header (133) | ciphertext | Ed25519 signature (64)

Every field has one place and one size, so a header has one encoding. The signature is over the bytes as sent,
so a forgery costs its reader two hashes and one verification and never a decryption.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from functools import cached_property

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from common.errors import ProtocolError
from common.security.sealing import OVERHEAD, OpeningKey, SealingKey, Suite
from common.security.statement import key_id, raw_public

MAGIC = b"FAE1"
SIGNATURE_BYTES = 64
_LAYOUT = struct.Struct(">4sB8sI16sQ8s8s32s32sQI")
HEADER_BYTES = _LAYOUT.size
LARGEST_COUNTER = 2**53
"""No device comes so far; a database that counts in 64 bits with a sign can keep it."""
LARGEST_OVERHEAD = HEADER_BYTES + OVERHEAD[Suite.HYBRID] + SIGNATURE_BYTES


@dataclass(frozen=True)
class Binding:
    """What an answer is an answer to, and whose.

    Args:
        run: 8 bytes, of the plan.
        round: of the plan.
        device: 16 bytes.
        counter: higher with every envelope of a device, also after a restart.
        plan: SHA-256 of the plan's bytes as received; they hold a nonce.
        base: SHA-256 of the weights the plan came with.
        not_after: seconds since 1970 after which the answer is void.
    """

    run: bytes
    round: int
    device: bytes
    counter: int
    plan: bytes
    base: bytes
    not_after: int

    def __post_init__(self) -> None:
        # struct would cut or pad what is of another length, without a word.
        if tuple(map(len, (self.run, self.device, self.plan, self.base))) != (8, 16, 32, 32):
            raise ValueError("a field of the binding has another length")


@dataclass(frozen=True)
class Envelope:
    """A parsed envelope. Nothing about it is known to be true before `open_envelope`."""

    suite: Suite
    binding: Binding
    signer: bytes
    recipient: bytes
    header: bytes
    sealed: memoryview
    signature: bytes

    @cached_property
    def signed(self) -> bytes:
        """What the signature is of: the digests of the header and of the ciphertext."""
        return _signed(self.header, self.sealed)

    @property
    def digest(self) -> str:
        """Names what was sent, in hexadecimal: the SHA-256 of `signed`, so that nothing is hashed twice."""
        return hashlib.sha256(self.signed).hexdigest()


def seal(payload: bytes, binding: Binding, signer: Ed25519PrivateKey, recipient: SealingKey) -> bytes:
    """`payload` for the coordinator's eyes only, signed by the device.

    Raises:
        ProtocolError: FA-3019, the recipient's key is malformed.
    """
    header = _LAYOUT.pack(
        MAGIC,
        recipient.suite,
        binding.run,
        binding.round,
        binding.device,
        binding.counter,
        key_id(raw_public(signer)),
        recipient.id,
        binding.plan,
        binding.base,
        binding.not_after,
        len(payload) + OVERHEAD[recipient.suite],
    )
    sealed = recipient.seal(payload, _info(header))
    return b"".join((header, sealed, signer.sign(_signed(header, sealed))))


def parse_envelope(data: bytes | memoryview, limit: int) -> Envelope:
    """Read the outside of an envelope of at most `limit` bytes. Copies nothing but the header.

    Raises:
        ProtocolError: FA-3021 it is not an envelope, FA-3022 it is larger than `limit`.
    """
    if len(data) > limit:
        raise ProtocolError("FA-3022", f"The answer has {len(data)} bytes, {limit} are allowed.", _UPDATE)
    view = memoryview(data)
    header = bytes(view[:HEADER_BYTES])
    if len(header) < HEADER_BYTES or header[:4] != MAGIC:
        raise _malformed("it does not begin as one")
    _, number, run, round_, device, counter, signer, recipient, plan, base, not_after, length = (
        _LAYOUT.unpack(header)
    )
    try:
        suite = Suite(number)
    except ValueError as error:
        raise _malformed(f"it names cipher suite {number}") from error
    if counter > LARGEST_COUNTER:
        raise _malformed("its counter is out of range")
    if length < OVERHEAD[suite] or len(data) != HEADER_BYTES + length + SIGNATURE_BYTES:
        raise _malformed("its length is not what it says")
    return Envelope(
        suite,
        Binding(run, round_, device, counter, plan, base, not_after),
        signer,
        recipient,
        header,
        view[HEADER_BYTES:-SIGNATURE_BYTES],
        bytes(view[-SIGNATURE_BYTES:]),
    )


def verify_envelope(envelope: Envelope, signer: bytes) -> None:
    """Return if `envelope` was signed with the raw Ed25519 key `signer`.

    Raises:
        ProtocolError: FA-3023.
    """
    try:
        if envelope.signer != key_id(signer):
            raise InvalidSignature
        Ed25519PublicKey.from_public_bytes(signer).verify(envelope.signature, envelope.signed)
    except (InvalidSignature, ValueError) as error:
        raise ProtocolError(
            "FA-3023", "The answer was not signed by the device it names.", "Enrol the device again."
        ) from error


def open_envelope(envelope: Envelope, signer: bytes, key: OpeningKey) -> bytes:
    """Verify `envelope` and return its payload.

    Args:
        signer: raw Ed25519 public key of the device that `envelope.binding` names.

    Raises:
        ProtocolError: FA-3023 not signed by that device, FA-3024 sealed to another key or with another suite,
            FA-3020 changed.
    """
    verify_envelope(envelope, signer)
    recipient = key.public
    if (envelope.suite, envelope.recipient) != (recipient.suite, recipient.id):
        raise ProtocolError(
            "FA-3024", "The answer is sealed to another key than the plan names.", "Restart the device."
        )
    return key.open(envelope.sealed, _info(envelope.header))


def _info(header: bytes) -> bytes:
    return b"fedaudio/FAE1/seal\0" + hashlib.sha256(header).digest()


def _signed(header: bytes, sealed: bytes | memoryview) -> bytes:
    digests = hashlib.sha256(header).digest() + hashlib.sha256(sealed).digest()
    return b"fedaudio/FAE1/sign\0" + digests


def _malformed(why: str) -> ProtocolError:
    return ProtocolError("FA-3021", f"The answer is not an envelope: {why}.", _UPDATE)


_UPDATE = "Update the device and the coordinator to the same version."
