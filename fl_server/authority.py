"""The device CA, which certifies devices. Its key and that of TLS are all that the front holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from common.errors import ConfigError
from common.security.certificates import DeviceCertificate, issue_device, read_device_certificate
from common.security.keys import KeyFolder, load_key_file
from fl_server.home import CoordinatorHome


@dataclass(frozen=True)
class DeviceAuthority:
    """The CA in use, and those before it: what they issued is good until it expires.

    Args:
        certificates: the first is in use.
        key: of the first.
    """

    certificates: tuple[x509.Certificate, ...]
    key: Ed25519PrivateKey = field(repr=False)

    @classmethod
    def load(cls, home: CoordinatorHome, password: bytes | None) -> DeviceAuthority:
        """The CA of the coordinator in `home`.

        Args:
            password: of `KeyGroup.FRONT`; None when file mode protects the keys.

        Raises:
            ConfigError: FA-6005..FA-6007, the key or a certificate cannot be used.
        """
        path = KeyFolder(home.keys, None).path("device-ca")
        key = load_key_file(path, password, Ed25519PrivateKey)
        return cls(load_authorities(home), key)

    def issue(
        self, *, device: str, name: str, identity: bytes, node: str, days: float, now: datetime | None = None
    ) -> str:
        """A device's certificate (PEM); the arguments are those of `DeviceCertificate`."""
        certificate = issue_device(
            self.certificates[0],
            self.key,
            device=device,
            name=name,
            identity=identity,
            node=node,
            days=days,
            now=now,
        )
        return certificate.public_bytes(Encoding.PEM).decode()

    def read(self, certificate: str) -> DeviceCertificate:
        """What a certificate (PEM) says that this CA, or one before it, has issued.

        Raises:
            ProtocolError: FA-3029.
        """
        return read_device_certificate(certificate.encode(), *self.certificates)


def load_authorities(home: CoordinatorHome) -> tuple[x509.Certificate, ...]:
    """Certificates of the device CAs, the one in use first.

    Raises:
        ConfigError: FA-6005.
    """
    previous = home.previous_device_ca_certificate
    try:
        data = home.device_ca_certificate.read_bytes() + (previous.read_bytes() if previous.exists() else b"")
        return tuple(x509.load_pem_x509_certificates(data))
    except (OSError, ValueError) as error:
        raise ConfigError(
            "FA-6005", "The certificate of the device CA cannot be read.", "Restore keys/ from a backup."
        ) from error
