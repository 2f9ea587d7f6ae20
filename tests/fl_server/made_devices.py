"""Devices as a coordinator sees them at enrolment: keys, and signed requests."""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from common.protocol.enrolment import EnrolmentRequest, RenewalRequest
from common.security.canonical import canonical
from common.security.certificates import make_request, prove_node_key
from common.security.statement import raw_public, sign_statement


def new_node_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@dataclass(frozen=True)
class MadeDevice:
    """A device's keys."""

    name: str
    identity: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    node: ec.EllipticCurvePrivateKey = field(default_factory=new_node_key)

    @property
    def raw(self) -> bytes:
        return raw_public(self.identity)

    @property
    def node_pem(self) -> str:
        public = self.node.public_key()
        return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def wish(self) -> dict[str, str]:
        """What a request for a certificate holds, with both proofs of possession."""
        request = make_request(self.name, self.identity)
        proof = prove_node_key(request, self.node).hex()
        return {"request": request.decode(), "node_key": self.node_pem, "node_proof": proof}

    def request(self, token: bytes) -> EnrolmentRequest:
        return EnrolmentRequest(token=token.hex(), **self.wish())

    def renewal(self, device: str, serial: str, *, signer: MadeDevice | None = None, **changes: str) -> bytes:
        """A request for a certificate for these keys, signed with those of `signer`, by default these."""
        wish = RenewalRequest.model_validate({"device": device, "serial": serial} | self.wish() | changes)
        return sign_statement("renewal", canonical(wish), (signer or self).identity)
