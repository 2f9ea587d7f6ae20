"""`fedaudio server init`: a folder that a coordinator can start from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import tomli_w
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding

from common.errors import ConfigError, CoordinatorError
from common.files import make_folder, write_atomic
from common.protocol.tensors import Weights, encode_weights
from common.security.canonical import canonical
from common.security.certificates import TLS_LIFETIME, issue_device_ca, issue_tls, make_root
from common.security.keys import KeyFolder
from common.security.sealing import OpeningKey, Suite
from common.security.statement import raw_public, sign_statement
from common.security.trust import Trust, fingerprint
from fl_server import evidence
from fl_server.home import CoordinatorHome
from fl_server.keyring import envelope_key, save_envelope
from fl_server.registry import Registry
from fl_server.settings import ServerSettings

SUITES = {"hybrid": Suite.HYBRID, "x25519": Suite.X25519}
"""Cipher suites by the name they have in server.toml."""

TRUST_LIFETIME = TLS_LIFETIME
"""Of a trust statement: as long as the certificate that it is fetched under."""

_HEADER = "# A fedaudio coordinator. What is not here has its default, see docs/configuration.md.\n\n"


def initialise(
    home: CoordinatorHome,
    settings: ServerSettings,
    *,
    names: Sequence[str],
    passphrase: bytes | None = None,
    make_body: Callable[[], Weights] | None = None,
) -> str:
    """Make the keys, the certificates and server.toml, and return the root's fingerprint, which devices pin.

    server.toml comes last: without it the folder is only half made, and can be made again.

    Args:
        settings: only what was set explicitly is written.
        names: host names and IP addresses the TLS certificate is valid for.
        passphrase: encrypts the private keys; without one their files' mode alone protects them.
        make_body: gives all parameters but the head's that the first version begins with, and may take long;
            see `fl_server.warm_start`.

    Raises:
        CoordinatorError: FA-5010 there is one already.
        ConfigError: FA-6003 no name, or one that cannot be.
        StorageError: FA-8001.
        Whatever `make_body` raises.
    """
    if home.config.exists():
        raise CoordinatorError(
            "FA-5010", f"{home.config} is there already.", "Use it, or name another folder with --home."
        )
    if not names:
        raise ConfigError("FA-6003", "The certificate needs a name.", "Give one with --names.")
    root, root_key = make_root()
    tls, tls_key = certify_tls(root, root_key, names)
    body = make_body() if make_body else None
    make_folder(home.root, mode=0o700)
    registry = Registry(home.database)
    try:
        if registry.was_used():
            raise CoordinatorError(
                "FA-5010",
                f"{home.root} has devices already, though its server.toml is missing.",
                "Restore server.toml from a backup, or name another folder with --home.",
            )
        pin = _make_keys(home, settings, passphrase, root, root_key, tls, tls_key)
        with registry.session() as session:
            evidence.append(session, "fleet-created", root=pin)
    finally:
        registry.close()
    if body is not None:
        write_atomic(home.warm_start, encode_weights(body))
    document = settings.model_dump(mode="json", exclude_unset=True, exclude_none=True)
    if settings.privacy is not None:
        # Its defaults are others there; written out, they can be seen, and stay.
        document["recipe"] = settings.recipe.model_dump(mode="json", exclude_none=True)
    write_atomic(home.config, (_HEADER + tomli_w.dumps(document)).encode())
    return pin


def certify_tls(
    root: x509.Certificate, root_key: Ed25519PrivateKey, names: Sequence[str], now: datetime | None = None
) -> tuple[x509.Certificate, EllipticCurvePrivateKey]:
    """A key for the public port, and its certificate.

    Raises:
        ConfigError: FA-6003, a name that cannot be.
    """
    try:
        return issue_tls(root, root_key, names, now)
    except ValueError as error:
        raise ConfigError(
            "FA-6003",
            f"A name for the certificate is impossible: {error}.",
            "Write it in ASCII (as xn--...).",
        ) from error


def pem(certificate: x509.Certificate) -> bytes:
    """A certificate as text."""
    return certificate.public_bytes(Encoding.PEM)


def _make_keys(
    home: CoordinatorHome,
    settings: ServerSettings,
    passphrase: bytes | None,
    root: x509.Certificate,
    root_key: Ed25519PrivateKey,
    tls: x509.Certificate,
    tls_key: EllipticCurvePrivateKey,
) -> str:
    folder = KeyFolder.create(home.keys, passphrase)
    device_ca, device_ca_key = issue_device_ca(root, root_key)
    plan, release = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    envelope = OpeningKey.generate(SUITES[settings.devices.envelope])
    keys: dict[str, PrivateKeyTypes] = {
        "root": root_key,
        "device-ca": device_ca_key,
        "tls": tls_key,
        "plan": plan,
        "release": release,
    }
    for name, key in keys.items():
        folder.save(name, key)
    save_envelope(folder, envelope)
    write_atomic(home.root_certificate, pem(root))
    write_atomic(home.device_ca_certificate, pem(device_ca))
    write_atomic(home.certificate, pem(tls))
    created = datetime.now(UTC)
    trust = Trust(
        serial=1,
        created=created,
        expires=created + TRUST_LIFETIME,
        root=pem(root).decode(),
        device_ca=pem(device_ca).decode(),
        plan=(raw_public(plan).hex(),),
        release=(raw_public(release).hex(),),
        envelope=(envelope_key(envelope),),
    )
    write_atomic(home.trust, sign_statement("trust", canonical(trust), root_key))
    return fingerprint(root)
