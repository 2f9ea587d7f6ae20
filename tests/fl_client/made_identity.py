"""Enrolled devices without a coordinator: a root, its authorities and keys, and homes made with them."""

from __future__ import annotations

import base64
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import tomli_w
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from common.files import make_folder, write_atomic
from common.protocol.plan import Plan, sign_plan
from common.security.canonical import canonical
from common.security.certificates import (
    device_id,
    issue_device,
    issue_device_ca,
    issue_tls,
    make_root,
    node_digest,
)
from common.security.keys import KeyFolder
from common.security.sealing import OpeningKey, Suite
from common.security.statement import raw_public, sign_statement
from common.security.trust import EnvelopeKey, Trust, fingerprint
from fl_client.home import DeviceHome
from fl_client.identity import Identity, keep_trust, ledger_key
from fl_client.ledger import Ledger, open_ledger

SMALL = {
    "task": {"labels": ["high", "low"], "width": 4, "clip_seconds": 0.25},
    "recipe": {"steps": 1, "batch_size": 2},
}


@dataclass(frozen=True)
class Authority:
    """All keys of a coordinator."""

    root: x509.Certificate
    root_key: Ed25519PrivateKey
    ca: x509.Certificate
    ca_key: Ed25519PrivateKey
    plan: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    release: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    opening: OpeningKey = field(default_factory=lambda: OpeningKey.generate(Suite.HYBRID))
    serial: int = 1

    @classmethod
    def make(cls) -> Authority:
        root, root_key = make_root()
        return cls(root, root_key, *issue_device_ca(root, root_key))

    @property
    def pin(self) -> str:
        """What devices are enrolled with: fingerprint of the root."""
        return fingerprint(self.root)

    @property
    def trust(self) -> Trust:
        return self.make_trust()

    def make_trust(self, **changes: object) -> Trust:
        now = datetime.now(UTC)
        facts: dict[str, object] = {
            "serial": self.serial,
            "created": now,
            "expires": now + timedelta(days=365),
            "root": self.root.public_bytes(Encoding.PEM).decode(),
            "device_ca": self.ca.public_bytes(Encoding.PEM).decode(),
            "plan": (raw_public(self.plan).hex(),),
            "release": (raw_public(self.release).hex(),),
            "envelope": (EnvelopeKey(suite=self.opening.public.suite, key=self.opening.public.raw.hex()),),
        }
        return Trust.model_validate(facts | changes)

    def trust_statement(self, **changes: object) -> bytes:
        """Signed, as keys/trust.fas and GET /v1/trust have it."""
        return sign_statement("trust", canonical(self.make_trust(**changes)), self.root_key)

    def certify(
        self,
        name: str,
        identity: Ed25519PrivateKey,
        node: ec.EllipticCurvePrivateKey,
        *,
        device: str | None = None,
        days: float = 60,
        now: datetime | None = None,
    ) -> bytes:
        """A device's certificate and after it the authority's (PEM), as a device keeps them."""
        public = raw_public(identity)
        certificate = issue_device(
            self.ca,
            self.ca_key,
            device=device or device_id(public),
            name=name,
            identity=public,
            node=node_digest(node.public_key()),
            days=days,
            now=now,
        )
        return certificate.public_bytes(Encoding.PEM) + self.ca.public_bytes(Encoding.PEM)

    def tls_files(
        self, folder: Path, hosts: Sequence[str] = ("127.0.0.1",), now: datetime | None = None
    ) -> tuple[Path, Path]:
        """Certificate and key of the public port, as files in `folder`."""
        certificate, key = issue_tls(self.root, self.root_key, hosts, now)
        make_folder(folder)
        paths = folder / "tls.crt", folder / "tls.key"
        paths[0].write_bytes(certificate.public_bytes(Encoding.PEM))
        paths[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return paths

    def server_context(self, folder: Path, hosts: Sequence[str] = ("127.0.0.1",)) -> ssl.SSLContext:
        """TLS 1.3 for a server that devices of this authority accept."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(*self.tls_files(folder, hosts))
        return context

    def plan_for(self, **changes: object) -> Plan:
        """A plan that a device of this authority takes on, unless `changes` say otherwise."""
        facts: dict[str, object] = {
            "coordinator": self.pin,
            "run": "00" * 8,
            "round": 1,
            "expires": int(time.time()) + 600,
            "cohort": 10,
            "recipient": self.opening.public.id.hex(),
            "base": "0" * 64,
        }
        return Plan.model_validate(facts | SMALL | changes)

    def signed_plan(self, **changes: object) -> bytes:
        return sign_plan(self.plan_for(**changes), self.plan)


def of_version_7(certificate: x509.Certificate) -> str:
    """The same in PEM with a version that X.509 does not have; no signature fits."""
    der = certificate.public_bytes(Encoding.DER)
    version = bytes.fromhex("a003020102")
    assert der.count(version) == 1
    text = base64.encodebytes(der.replace(version, bytes.fromhex("a003020106"))).decode()
    return f"-----BEGIN CERTIFICATE-----\n{text}-----END CERTIFICATE-----\n"


@dataclass(frozen=True)
class Made:
    """An enrolled device.

    Args:
        device: its id.
        authority: its coordinator's keys.
    """

    home: DeviceHome
    device: str
    authority: Authority

    @property
    def identity(self) -> Identity:
        """As the device loads it."""
        return Identity.load(self.home, None)

    @property
    def trust(self) -> Trust:
        return self.identity.trust

    @property
    def ledger(self) -> Ledger:
        return ledger_of(self.home)


def ledger_of(home: DeviceHome) -> Ledger:
    """The ledger of a device whose keys file mode protects, as its link opens it."""
    return open_ledger(home, ledger_key(home, None))


def make_home(
    root: Path,
    name: str = "kitchen",
    *,
    authority: Authority | None = None,
    server: str = "127.0.0.1:1",
    days: float = 60,
    now: datetime | None = None,
) -> Made:
    """An enrolled device in the folder `root`, its keys protected by file mode.

    Args:
        authority: whose device it is; a new one by default.
        days, now: life of its certificate.
    """
    authority, home = authority or Authority.make(), DeviceHome(root)
    make_folder(home.root, mode=0o700)
    make_folder(home.clips, mode=0o700)
    keys = KeyFolder.create(home.identity, None)
    identity, node = Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256R1())
    keys.save("identity", identity)
    keys.save("node", node)
    keep_trust(home, authority.trust_statement(), authority.pin)
    write_atomic(home.certificate, authority.certify(name, identity, node, days=days, now=now), mode=0o600)
    document = {"name": name, "server": server, "coordinator": authority.pin}
    write_atomic(home.config, tomli_w.dumps(document).encode(), mode=0o600)
    return Made(home, device_id(raw_public(identity)), authority)
