"""Who a device is: the keys it made, the certificate it was given, and what it trusts.

The certificate says which keys are in use. A rotation writes the next keys beside the old ones and then the
certificate for them, which is the moment of change; so whenever the power goes, one set of keys fits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from common.errors import DeviceError, ProtocolError
from common.files import is_there, locked, read_if_there, rename, write_atomic
from common.protocol.enrolment import Enrolled
from common.security.certificates import (
    UNREADABLE,
    DeviceCertificate,
    device_id,
    node_digest,
    read_device_certificate,
)
from common.security.keys import Key, KeyFolder
from common.security.statement import raw_public
from common.security.trust import Trust, open_trust
from common.settings import load_settings
from fl_client.home import DeviceHome
from fl_client.marks import Marks, raise_marks, read_marks
from fl_client.settings import DeviceSettings

IDENTITY, NODE, LEDGER = "identity", "node", "ledger"
NEXT: Literal["-next"] = "-next"
"""Names of the keys; those of a rotation that is not over yet end in `NEXT`. The ledger's stays."""

KeyPair: TypeAlias = tuple[Ed25519PrivateKey, ec.EllipticCurvePrivateKey]
"""What signs, and what authenticates the Flower node."""


@dataclass(frozen=True)
class Identity:
    """An enrolled device.

    Args:
        certificate: names the device and both keys.
        signing_key: signs answers and requests for renewal.
        node_key: authenticates the device's Flower node.
        trust: the newest trust statement that is on the disk.
        coordinator: fingerprint of the root.
    """

    certificate: DeviceCertificate
    signing_key: Ed25519PrivateKey = field(repr=False)
    node_key: ec.EllipticCurvePrivateKey = field(repr=False)
    trust: Trust = field(repr=False)
    coordinator: str

    @property
    def device(self) -> str:
        """The device's id: 32 hexadecimal digits."""
        return self.certificate.device

    @property
    def name(self) -> str:
        return self.certificate.name

    @classmethod
    def load(cls, home: DeviceHome, password: bytes | None) -> Identity:
        """The identity in `home`.

        Args:
            password: of the keys, as `KeyFolder.unlock` derives it; None when file mode protects them.

        Raises:
            ConfigError: FA-6001..FA-6003 device.toml, FA-6005..FA-6007 the keys.
            DeviceError: FA-4010 the device is not enrolled yet, FA-4011 its keys are not the certificate's.
            ProtocolError: FA-3016..FA-3018, FA-3025..FA-3027, FA-3029, what it was given is damaged.
        """
        pin = load_settings(DeviceSettings, home.config).coordinator
        trust = read_trust(home, pin)
        keys = KeyFolder(home.identity, password)
        with only_one(home):
            certificate = read_certificate(home)
            signing = _in_use(
                keys,
                IDENTITY,
                Ed25519PrivateKey,
                lambda key: raw_public(key) == certificate.identity,
            )
            node = _in_use(
                keys,
                NODE,
                ec.EllipticCurvePrivateKey,
                lambda key: node_digest(key.public_key()) == certificate.node,
            )
        return cls(certificate, signing, node, trust, pin)


def read_certificate(home: DeviceHome) -> DeviceCertificate:
    """The certificate in `home`, which anybody may see.

    Raises:
        DeviceError: FA-4010, there is none yet.
        ProtocolError: FA-3029, it is damaged.
        StorageError: FA-8001, it cannot be read.
    """
    data = read_if_there(home.certificate)
    if data is None:
        raise DeviceError(
            "FA-4010",
            "This device is not enrolled, or its enrolment has not been approved.",
            "Run `fedaudio client enroll` with a string from the coordinator's operator; ask for approval.",
        )
    try:
        own, issuer = x509.load_pem_x509_certificates(data)
    except UNREADABLE as error:
        raise ProtocolError(
            "FA-3029",
            "The device's certificate is damaged.",
            "Restore the folder from a backup, or enrol the device anew in another folder.",
        ) from error
    return read_device_certificate(own.public_bytes(Encoding.PEM), issuer)


def keep_certificate(
    home: DeviceHome,
    answer: Enrolled,
    trust: Trust,
    keys: KeyPair,
) -> None:
    """Check a new certificate and put it in the place of the one in `home`.

    The authority that issued it is kept with it: it may be replaced while the certificate is still good.

    Args:
        keys: that the device asked to have certified.

    Raises:
        ProtocolError: FA-3029, it is not of the coordinator's device CA.
        DeviceError: FA-4018, it is for another device or other keys.
        StorageError: FA-8001.
    """
    issuer = read_authority(trust)
    certificate = read_device_certificate(answer.certificate.encode(), issuer)
    asked_for = raw_public(keys[0]), node_digest(keys[1].public_key())
    known = read_certificate(home).device if is_there(home.certificate) else device_id(asked_for[0])
    if (certificate.identity, certificate.node) != asked_for or certificate.device != known:
        raise DeviceError(
            "FA-4018",
            "The coordinator has certified another device or other keys than were asked for.",
            "Enrol again; if it stays, ask the coordinator's operator.",
        )
    data = answer.certificate.encode() + issuer.public_bytes(Encoding.PEM)
    with only_one(home):
        write_atomic(home.certificate, data, mode=0o600)


def read_authority(trust: Trust) -> x509.Certificate:
    """The authority that certifies devices now.

    Raises:
        ProtocolError: FA-3025, it is not a certificate.
    """
    try:
        return x509.load_pem_x509_certificate(trust.device_ca.encode())
    except UNREADABLE as error:
        raise ProtocolError(
            "FA-3025",
            "The trust statement is malformed: its device CA is not a certificate.",
            "Ask the coordinator's operator.",
        ) from error


def load_pair(keys: KeyFolder, suffix: str = "") -> KeyPair:
    """The identity key and the node key, or with `NEXT` those that are to follow them.

    Raises:
        ConfigError: FA-6005..FA-6007.
    """
    return (
        keys.load(IDENTITY + suffix, Ed25519PrivateKey),
        keys.load(NODE + suffix, ec.EllipticCurvePrivateKey),
    )


def make_pair(keys: KeyFolder, suffix: str = "") -> KeyPair:
    """As `load_pair`; what is not there is made. When the identity key is there, so is the node key.

    Raises:
        ConfigError: FA-6005..FA-6007.
        StorageError: FA-8001.
    """
    if not keys.has(NODE + suffix):
        keys.save(NODE + suffix, ec.generate_private_key(ec.SECP256R1()))
    # After an interruption there may be one of the two, under a passphrase that is perhaps not today's.
    keys.load(NODE + suffix, ec.EllipticCurvePrivateKey)
    if not keys.has(IDENTITY + suffix):
        keys.save(IDENTITY + suffix, Ed25519PrivateKey.generate())
    return load_pair(keys, suffix)


def ledger_key(home: DeviceHome, password: bytes | None) -> bytes:
    """What vouches for the ledger's lines (32 bytes): HKDF (RFC 5869) of a secret among the device's keys.

    The secret is made when there is no ledger yet.

    Raises:
        ConfigError: FA-6005..FA-6007.
        StorageError: FA-8001.
    """
    keys = KeyFolder(home.identity, password)
    with only_one(home):
        if not keys.has(LEDGER) and not is_there(home.ledger):
            keys.save(LEDGER, X25519PrivateKey.generate())
        secret = keys.load(LEDGER, X25519PrivateKey).private_bytes_raw()
    return HKDF(SHA256(), length=32, salt=None, info=b"fedaudio/ledger/v1").derive(secret)


def read_trust(home: DeviceHome, pin: str) -> Trust:
    """The trust statement in `home`.

    Raises:
        DeviceError: FA-4010, there is none.
        ProtocolError: FA-3016..FA-3018, FA-3025..FA-3027.
        StorageError: FA-8001, it cannot be read.
    """
    data = read_if_there(home.trust)
    if data is None:
        raise DeviceError(
            "FA-4010",
            "This device is not enrolled: it knows no coordinator to trust.",
            "Run `fedaudio client enroll` with a string from the coordinator's operator.",
        )
    return open_trust(data, pin, read_marks(home.marks).trust)


def keep_trust(home: DeviceHome, data: bytes, pin: str) -> Trust:
    """Check a trust statement and put it in the place of the one in `home`, unless that is as new.

    Raises:
        ProtocolError: FA-3016..FA-3018, FA-3025..FA-3027; nothing is changed then.
        StorageError: FA-8001.
    """
    trust = open_trust(data, pin)

    def newer(marks: Marks) -> Marks:
        # Again, now that nobody else can raise the mark: an older one must not win a race.
        open_trust(data, pin, marks.trust)
        if read_if_there(home.trust) != data:
            write_atomic(home.trust, data, mode=0o600)
        return marks.model_copy(update={"trust": trust.serial})

    # The statement is on the disk before its mark is: after a crash between the two it is read all the same.
    raise_marks(home.marks, newer)
    return trust


def public_pem(key: ec.EllipticCurvePrivateKey) -> str:
    """The public half of a node key, as requests hold it."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@contextmanager
def only_one(home: DeviceHome, what: str = "identity") -> Iterator[None]:
    """Leave to read or change the keys and the certificate together; others wait."""
    with locked(home.identity / f"{what}.lock"):
        yield


def _in_use(keys: KeyFolder, name: str, kind: type[Key], fits: Callable[[Key], bool]) -> Key:
    """The key called `name`, or the one that is to follow it if the certificate is for that one already."""
    if keys.has(name) and fits(key := keys.load(name, kind)):
        return key
    if keys.has(name + NEXT) and fits(key := keys.load(name + NEXT, kind)):
        rename(keys.path(name + NEXT), keys.path(name))
        return key
    if not keys.has(name):
        keys.load(name, kind)  # says in words that it is not there
    raise DeviceError(
        "FA-4011",
        f"The {name} key in {keys.folder} is not the one that the certificate is for.",
        "Restore the folder from a backup, or enrol the device anew in another folder.",
    )
