"""X.509 certificates: a root; under it the device CA and the coordinator's TLS certificate; then devices.

    root (Ed25519)  ->  device CA (Ed25519)  ->  device (Ed25519 identity; names its Flower node key)
                    ->  TLS (P-256)

A device's certificate is for client authentication only, so that no device can pose as the coordinator.
PEM is read in the one spelling that it is written in here.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pydantic import TypeAdapter

from common.errors import ProtocolError
from common.names import DeviceName

ROOT_LIFETIME = timedelta(days=3650)
TLS_LIFETIME = timedelta(days=825)
BACKDATED = timedelta(days=1)
"""Devices without a battery-backed clock are often a little behind."""

LONGEST_NAME = 64
"""Bytes of a device's name in UTF-8; X.520 has room for no more in a common name."""

UNREADABLE = (
    ValueError,
    TypeError,
    InvalidSignature,
    UnsupportedAlgorithm,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    x509.InvalidVersion,
)
"""What `cryptography` raises for certificates, requests and keys that are not what they should be."""

_NAME: TypeAdapter[str] = TypeAdapter(DeviceName)
_URIS = re.compile(r"urn:fedaudio:device:([0-9a-f]{32}) urn:fedaudio:node:([0-9a-f]{64})")

_BY_ED25519 = bytes.fromhex("300506032b6570034100")
"""The algorithm, and the head of a BIT STRING of 64 bytes without unused bits."""

_PublicKey: TypeAlias = Ed25519PublicKey | ec.EllipticCurvePublicKey


@dataclass(frozen=True)
class DeviceCertificate:
    """What a device's certificate says, once the CA's signature on it has been checked.

    Args:
        device: 32 hexadecimal digits.
        identity: raw Ed25519 public key that the device signs with.
        node: `node_digest` of the key that the device's Flower node authenticates with.
        serial: of the certificate, in hexadecimal.
    """

    device: str
    name: str
    identity: bytes
    node: str
    serial: str
    begins: datetime
    ends: datetime

    @property
    def renew_at(self) -> datetime:
        """Two thirds through its life."""
        return self.begins + (self.ends - self.begins) * 2 / 3


def device_id(identity: bytes) -> str:
    """The id of a device that was enrolled with the raw Ed25519 key `identity`; it outlives the key."""
    return hashlib.sha256(identity).hexdigest()[:32]


def node_digest(key: ec.EllipticCurvePublicKey) -> str:
    """SHA-256 of a node key (DER) in hexadecimal."""
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def make_root(now: datetime | None = None) -> tuple[x509.Certificate, Ed25519PrivateKey]:
    """A new root of trust."""
    key, begins = Ed25519PrivateKey.generate(), now or datetime.now(UTC)
    builder = _builder("fedaudio root", key.public_key(), begins - BACKDATED, begins + ROOT_LIFETIME)
    builder = _for_signing_certificates(builder.issuer_name(_common_name("fedaudio root")), path_length=1)
    return builder.sign(key, None), key


def issue_device_ca(
    root: x509.Certificate, root_key: Ed25519PrivateKey, now: datetime | None = None
) -> tuple[x509.Certificate, Ed25519PrivateKey]:
    """An authority for devices, which can certify nothing else."""
    key, begins = Ed25519PrivateKey.generate(), now or datetime.now(UTC)
    builder = _builder("fedaudio devices", key.public_key(), begins - BACKDATED, root.not_valid_after_utc)
    builder = _for_signing_certificates(_under(builder, root, root_key), path_length=0)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=True)
    return builder.sign(root_key, None), key


def issue_tls(
    root: x509.Certificate, root_key: Ed25519PrivateKey, hosts: Sequence[str], now: datetime | None = None
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A certificate for the coordinator's public port, valid for `hosts` (names or IP addresses).

    Raises:
        ValueError: a host that cannot be.
    """
    key, begins = ec.generate_private_key(ec.SECP256R1()), now or datetime.now(UTC)
    names = x509.SubjectAlternativeName([_host(host) for host in hosts])
    builder = _builder("fedaudio coordinator", key.public_key(), begins - BACKDATED, begins + TLS_LIFETIME)
    builder = _under(builder, root, root_key).add_extension(names, critical=False)
    return _for_one_use(builder, ExtendedKeyUsageOID.SERVER_AUTH).sign(root_key, None), key


def issue_device(
    ca: x509.Certificate,
    ca_key: Ed25519PrivateKey,
    *,
    device: str,
    name: str,
    identity: bytes,
    node: str,
    days: float,
    now: datetime | None = None,
) -> x509.Certificate:
    """A device's certificate; the arguments are those of `DeviceCertificate`."""
    begins = now or datetime.now(UTC)
    uris = [f"urn:fedaudio:device:{device}", f"urn:fedaudio:node:{node}"]
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris])
    key = Ed25519PublicKey.from_public_bytes(identity)
    builder = _under(_builder(name, key, begins, begins + timedelta(days=days)), ca, ca_key)
    builder = builder.add_extension(names, critical=True)
    return _for_one_use(builder, ExtendedKeyUsageOID.CLIENT_AUTH).sign(ca_key, None)


def read_device_certificate(data: bytes, *authorities: x509.Certificate) -> DeviceCertificate:
    """Read a device's certificate (PEM) and check that one of `authorities` issued it.

    Its time is left to `check_time`.

    Raises:
        ProtocolError: FA-3029, it is not one or it is of another authority.
    """
    try:
        certificate = x509.load_pem_x509_certificate(data)
        if not any(_is_issued_by(certificate, authority) for authority in authorities):
            raise ValueError("it is of another authority")
        extensions = certificate.extensions
        usage = list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = _URIS.fullmatch(" ".join(names.get_values_for_type(x509.UniformResourceIdentifier)))
        signs_others = extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        identity, name = certificate.public_key(), _device_name(certificate.subject)
        if (
            uris is None
            or len(list(names)) != 2
            or usage != [ExtendedKeyUsageOID.CLIENT_AUTH]
            or signs_others
            or not isinstance(identity, Ed25519PublicKey)
            or certificate.public_bytes(Encoding.PEM) != data
            or not _is_plain(certificate, certificate.tbs_certificate_bytes)
        ):
            raise ValueError("it is not a device's")
    except UNREADABLE as error:
        raise ProtocolError(
            "FA-3029",
            "The device's certificate is not one that this coordinator's device CA has issued.",
            "Enrol the device: fedaudio client enroll",
        ) from error
    return DeviceCertificate(
        uris[1],
        name,
        identity.public_bytes_raw(),
        uris[2],
        f"{certificate.serial_number:x}",
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
    )


def make_request(name: str, identity: Ed25519PrivateKey) -> bytes:
    """A PKCS#10 request (PEM) for a certificate; its signature proves possession of `identity`.

    Raises:
        ProtocolError: FA-3030, `name` does not fit into a certificate.
    """
    if len(name.encode()) > LONGEST_NAME:
        raise ProtocolError(
            "FA-3030",
            f"The device's name is longer than the {LONGEST_NAME} bytes that a certificate has room for.",
            "Give a shorter --name.",
        )
    request = x509.CertificateSigningRequestBuilder().subject_name(_common_name(name)).sign(identity, None)
    return request.public_bytes(Encoding.PEM)


def read_request(data: bytes) -> tuple[str, bytes]:
    """The name and the raw Ed25519 public key in a request, once its signature has been checked.

    Raises:
        ProtocolError: FA-3030.
    """
    try:
        request = x509.load_pem_x509_csr(data)
        key, name = request.public_key(), _device_name(request.subject)
        if (
            not request.is_signature_valid
            or not isinstance(key, Ed25519PublicKey)
            or request.public_bytes(Encoding.PEM) != data
            or not _is_plain(request, request.tbs_certrequest_bytes)
        ):
            raise ValueError("not signed with its own Ed25519 key")
    except UNREADABLE as error:
        raise ProtocolError(
            "FA-3030", "The request for a certificate is malformed or not signed.", "Update the device."
        ) from error
    return name, key.public_bytes_raw()


def read_node_key(data: bytes) -> ec.EllipticCurvePublicKey:
    """The P-256 public key (PEM) of a device's Flower node.

    Raises:
        ProtocolError: FA-3030.
    """
    try:
        key = load_pem_public_key(data)
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise ValueError("another kind of key")
        if key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo) != data:
            raise ValueError("another spelling of it")
    except UNREADABLE as error:
        raise ProtocolError(
            "FA-3030", "The device's node key is not a P-256 public key.", "Update the device."
        ) from error
    return key


def prove_node_key(request: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """A signature of `request` that proves possession of the node key `key`."""
    return key.sign(_NODE_PROOF + hashlib.sha256(request).digest(), ec.ECDSA(hashes.SHA256()))


def check_node_key(request: bytes, key: ec.EllipticCurvePublicKey, proof: bytes) -> None:
    """Return if `proof` was made by `prove_node_key`.

    Raises:
        ProtocolError: FA-3030.
    """
    try:
        key.verify(proof, _NODE_PROOF + hashlib.sha256(request).digest(), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise ProtocolError(
            "FA-3030", "The device does not hold the node key it sends.", "Update the device."
        ) from error


_NODE_PROOF = b"fedaudio/node/v1\0"


def _builder(name: str, key: _PublicKey, begins: datetime, ends: datetime) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_common_name(name))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _under(
    builder: x509.CertificateBuilder, issuer: x509.Certificate, key: Ed25519PrivateKey
) -> x509.CertificateBuilder:
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    return builder.issuer_name(issuer.subject).add_extension(issuer_key, critical=False)


def _is_issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _for_signing_certificates(builder: x509.CertificateBuilder, path_length: int) -> x509.CertificateBuilder:
    none_else = dict.fromkeys(
        (
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    return builder.add_extension(
        x509.BasicConstraints(ca=True, path_length=path_length), critical=True
    ).add_extension(x509.KeyUsage(key_cert_sign=True, **none_else), critical=True)


def _for_one_use(builder: x509.CertificateBuilder, use: x509.ObjectIdentifier) -> x509.CertificateBuilder:
    return builder.add_extension(
        x509.BasicConstraints(ca=False, path_length=None), critical=True
    ).add_extension(x509.ExtendedKeyUsage([use]), critical=True)


def _is_plain(signed: x509.Certificate | x509.CertificateSigningRequest, body: bytes) -> bool:
    """Whether what is around the signed part is spelled as usual; a BIT STRING has several spellings."""
    return signed.public_bytes(Encoding.DER).endswith(body + _BY_ED25519 + signed.signature)


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _device_name(subject: x509.Name) -> str:
    (attribute,) = subject
    if attribute.oid != NameOID.COMMON_NAME or len(str(attribute.value).encode()) > LONGEST_NAME:
        raise ValueError("it does not name a device")
    return _NAME.validate_python(attribute.value)


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
