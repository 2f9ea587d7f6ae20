"""Keys of a coordinator and a device, and one good message of every sort between them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from common.protocol.answer import Report, encode_answer
from common.protocol.enrolment import EnrolmentRequest, RenewalRequest
from common.protocol.plan import Plan, sign_plan
from common.protocol.tensors import Weights, encode_weights, schema_of
from common.security.canonical import canonical
from common.security.certificates import (
    device_id,
    issue_device,
    issue_device_ca,
    make_request,
    make_root,
    node_digest,
    prove_node_key,
)
from common.security.envelope import Binding, seal
from common.security.sealing import OpeningKey, Suite
from common.security.statement import raw_public, sign_statement
from common.security.trust import EnvelopeKey, Trust, fingerprint
from common.task import Task

RUN = "00c0ffee00c0ffee"
WEIGHTS: Weights = {
    "layer.weight": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3),
    "bias": np.array([1e-3, -2.5, 0], np.float32),
    "scale": np.array(0.25, np.float32),
}
SCHEMA = schema_of(WEIGHTS)


@dataclass(frozen=True)
class Coordinator:
    """Keys, and what is signed with them."""

    root: x509.Certificate
    root_key: Ed25519PrivateKey
    ca: x509.Certificate
    ca_key: Ed25519PrivateKey
    opening: OpeningKey
    plan_key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    release_key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    @classmethod
    def make(cls, suite: Suite = Suite.HYBRID) -> Coordinator:
        root, root_key = make_root()
        return cls(root, root_key, *issue_device_ca(root, root_key), OpeningKey.generate(suite))

    @property
    def pin(self) -> str:
        return fingerprint(self.root)

    def trust(self, **changes: object) -> Trust:
        now = datetime.now(UTC)
        facts: dict[str, object] = {
            "serial": 3,
            "created": now,
            "expires": now + timedelta(days=365),
            "root": pem(self.root),
            "device_ca": pem(self.ca),
            "plan": (raw_public(self.plan_key).hex(),),
            "release": (raw_public(self.release_key).hex(),),
            "envelope": (EnvelopeKey(suite=self.opening.public.suite, key=self.opening.public.raw.hex()),),
        }
        return Trust.model_validate(facts | changes)

    def signed_trust(self, **changes: object) -> bytes:
        return sign_statement("trust", canonical(self.trust(**changes)), self.root_key)

    def plan(self, **changes: object) -> Plan:
        facts: dict[str, object] = {
            "coordinator": self.pin,
            "run": RUN,
            "round": 7,
            "expires": 2_000_000_000,
            "cohort": 4,
            "recipient": self.opening.public.id.hex(),
            "task": Task(labels=("yes", "no")),
            "base": hashlib.sha256(encode_weights(WEIGHTS)).hexdigest(),
        }
        return Plan.model_validate(facts | changes)

    def signed_plan(self, **changes: object) -> bytes:
        return sign_plan(self.plan(**changes), self.plan_key)


@dataclass(frozen=True)
class Device:
    """Keys, and what is made with them."""

    name: str = "kitchen"
    identity: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    node: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @property
    def id(self) -> str:
        return device_id(raw_public(self.identity))

    def certificate(self, coordinator: Coordinator, days: float = 60, now: datetime | None = None) -> bytes:
        """Issued by the coordinator's device CA, as PEM."""
        return issue_device(
            coordinator.ca,
            coordinator.ca_key,
            device=self.id,
            name=self.name,
            identity=raw_public(self.identity),
            node=node_digest(self.node.public_key()),
            days=days,
            now=now,
        ).public_bytes(Encoding.PEM)

    def enrolment(self, token: bytes) -> EnrolmentRequest:
        return EnrolmentRequest(token=token.hex(), **self._keys())

    def renewal(self, serial: str) -> bytes:
        """A signed `RenewalRequest`."""
        request = RenewalRequest(device=self.id, serial=serial, **self._keys())
        return sign_statement("renewal", canonical(request), self.identity)

    def binding(self, plan: bytes, counter: int = 1, **changes: object) -> Binding:
        """Of an answer to the signed `plan`."""
        facts: dict[str, object] = {
            "run": bytes.fromhex(RUN),
            "round": 7,
            "device": bytes.fromhex(self.id),
            "counter": counter,
            "plan": hashlib.sha256(plan).digest(),
            "base": hashlib.sha256(encode_weights(WEIGHTS)).digest(),
            "not_after": 2_000_000_000,
        }
        return Binding(**(facts | changes))  # type: ignore[arg-type]

    def report(self, **changes: object) -> Report:
        facts: dict[str, object] = {
            "run": RUN,
            "round": 7,
            "kind": "train",
            "base": hashlib.sha256(encode_weights(WEIGHTS)).hexdigest(),
            "device": self.id,
            "clips": 12,
            "loss": 1.5,
        }
        return Report.model_validate(facts | changes)

    def envelope(self, coordinator: Coordinator, plan: bytes, **binding: object) -> bytes:
        """A sealed training, signed."""
        answer = encode_answer(self.report(), WEIGHTS)
        return seal(answer, self.binding(plan, **binding), self.identity, coordinator.opening.public)  # type: ignore[arg-type]

    def _keys(self) -> dict[str, str]:
        request = make_request(self.name, self.identity)
        node = self.node.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return {
            "request": request.decode(),
            "node_key": node.decode(),
            "node_proof": prove_node_key(request, self.node).hex(),
        }


def pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()
