"""Certificates: only what this coordinator's device CA issued to a device is a device's."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ProtocolError
from common.security.certificates import (
    DeviceCertificate,
    check_node_key,
    device_id,
    issue_device_ca,
    issue_tls,
    make_request,
    node_digest,
    prove_node_key,
    read_device_certificate,
    read_node_key,
    read_request,
)
from common.security.statement import raw_public
from common.security.trust import check_time
from tests.common.security.made_messages import Coordinator, Device, pem

MINE, OTHER = Coordinator.make(), Coordinator.make()
DEVICE = Device("küche-2.og")
CERTIFICATE = DEVICE.certificate(MINE)
NOW = datetime.now(UTC).replace(microsecond=0)
CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
NODE = node_digest(DEVICE.node.public_key())
URIS = (f"urn:fedaudio:device:{DEVICE.id}", f"urn:fedaudio:node:{NODE}")


def make_certificate(
    *,
    uses: tuple[x509.ObjectIdentifier, ...] | None = (CLIENT,),
    names: tuple[x509.GeneralName, ...] | None = tuple(map(x509.UniformResourceIdentifier, URIS)),
    subject: tuple[tuple[x509.ObjectIdentifier, str], ...] = ((NameOID.COMMON_NAME, "kitchen"),),
    key: object = None,
    ca: bool | None = False,
) -> bytes:
    """Anything the device CA could be brought to sign, right but for what is given."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(oid, value) for oid, value in subject]))
        .issuer_name(MINE.ca.subject)
        .public_key(key or DEVICE.identity.public_key())  # type: ignore[arg-type]
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=1))
    )
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca, None), critical=True)
    if uses is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=True)
    if names is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    return builder.sign(MINE.ca_key, None).public_bytes(Encoding.PEM)


def refused(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="FA-3029"):
        read_device_certificate(data, MINE.ca)


def test_a_certificate_says_whose_it_is() -> None:
    data = DEVICE.certificate(MINE, days=60, now=NOW)
    certificate = read_device_certificate(data, MINE.ca)
    assert certificate == DeviceCertificate(
        device=DEVICE.id,
        name="küche-2.og",
        identity=raw_public(DEVICE.identity),
        node=NODE,
        serial=certificate.serial,
        begins=NOW,
        ends=NOW + timedelta(days=60),
    )
    assert int(certificate.serial, 16) == x509.load_pem_x509_certificate(data).serial_number
    assert certificate.renew_at == NOW + timedelta(days=40)


def test_an_expired_certificate_is_read_and_refused_by_its_time() -> None:
    data = DEVICE.certificate(MINE, days=30, now=NOW - timedelta(days=31))
    certificate = read_device_certificate(data, MINE.ca)
    with pytest.raises(ProtocolError, match="FA-3028"):
        check_time(certificate.begins, certificate.ends, "certificate", NOW)
    early = read_device_certificate(DEVICE.certificate(MINE, now=NOW + timedelta(days=1)), MINE.ca)
    with pytest.raises(ProtocolError, match="FA-3028"):
        check_time(early.begins, early.ends, "certificate", NOW)


def test_the_certificate_made_here_for_comparison_is_accepted() -> None:
    assert read_device_certificate(make_certificate(), MINE.ca).device == DEVICE.id


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"uses": (SERVER,)}, id="for servers"),
        pytest.param({"uses": (CLIENT, SERVER)}, id="for clients and servers"),
        pytest.param({"uses": (ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,)}, id="for anything"),
        pytest.param({"uses": None}, id="for nothing said"),
        pytest.param({"ca": True}, id="an authority"),
        pytest.param({"ca": None}, id="no word on being an authority"),
        pytest.param({"names": None}, id="no names"),
        pytest.param({"names": (x509.DNSName("coordinator.example"),)}, id="a host"),
        pytest.param({"names": (x509.UniformResourceIdentifier(URIS[0]),)}, id="no node"),
        pytest.param({"names": tuple(map(x509.UniformResourceIdentifier, reversed(URIS)))}, id="reversed"),
        pytest.param(
            {"names": tuple(map(x509.UniformResourceIdentifier, (*URIS, URIS[0])))}, id="a name too many"
        ),
        pytest.param(
            {"names": (*map(x509.UniformResourceIdentifier, URIS), x509.DNSName("localhost"))},
            id="a host beside them",
        ),
        pytest.param(
            {"names": tuple(x509.UniformResourceIdentifier(uri.upper()) for uri in URIS)}, id="upper case"
        ),
        pytest.param(
            {
                "names": (
                    x509.UniformResourceIdentifier(URIS[0] + "0"),
                    x509.UniformResourceIdentifier(URIS[1]),
                )
            },
            id="a longer device id",
        ),
        pytest.param({"names": tuple(map(x509.DNSName, URIS))}, id="the same text as hosts"),
        pytest.param({"subject": ()}, id="no subject"),
        pytest.param({"subject": ((NameOID.ORGANIZATION_NAME, "kitchen"),)}, id="an organisation"),
        pytest.param(
            {"subject": ((NameOID.COMMON_NAME, "a"), (NameOID.COMMON_NAME, "b"))}, id="two subjects"
        ),
        pytest.param({"subject": ((NameOID.COMMON_NAME, "two words"),)}, id="a space in the name"),
        pytest.param({"subject": ((NameOID.COMMON_NAME, "a\x1b[2J"),)}, id="a control character in the name"),
        pytest.param({"key": ec.generate_private_key(ec.SECP256R1()).public_key()}, id="a P-256 identity"),
        pytest.param({"key": X25519PrivateKey.generate().public_key()}, id="an X25519 identity"),
    ],
)
def test_what_the_device_ca_might_sign_by_mistake_is_no_device(wrong: dict[str, object]) -> None:
    refused(make_certificate(**wrong))  # type: ignore[arg-type]


def test_certificates_of_other_kinds_are_no_devices() -> None:
    tls, _ = issue_tls(MINE.root, MINE.root_key, ["localhost"])
    for certificate in (MINE.root, MINE.ca, tls):
        refused(pem(certificate).encode())


def test_a_certificate_of_another_authority_is_refused() -> None:
    refused(DEVICE.certificate(OTHER))


def test_an_authority_that_only_has_the_same_name_is_refused() -> None:
    ca, ca_key = issue_device_ca(MINE.root, OTHER.root_key)
    assert ca.subject == MINE.ca.subject
    refused(DEVICE.certificate(Coordinator(MINE.root, MINE.root_key, ca, ca_key, MINE.opening)))


def test_a_device_that_issues_certificates_is_refused() -> None:
    mine = x509.load_pem_x509_certificate(CERTIFICATE)
    as_ca = Coordinator(MINE.root, MINE.root_key, mine, DEVICE.identity, MINE.opening)
    refused(Device("friend").certificate(as_ca))


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_a_flip_of_any_byte_is_refused() -> None:
    for bit in (0, 5):
        for place in range(len(CERTIFICATE)):
            data = bytearray(CERTIFICATE)
            data[place] ^= 1 << bit
            refused(bytes(data))


def test_every_truncation_and_addition_is_refused() -> None:
    for length in range(len(CERTIFICATE)):
        refused(CERTIFICATE[:length])
    for other in (CERTIFICATE * 2, b"\n" + CERTIFICATE, CERTIFICATE + b" ", b"# mine\n" + CERTIFICATE):
        refused(other)


def test_another_spelling_of_the_same_certificate_is_refused() -> None:
    refused(CERTIFICATE.replace(b"\n", b"\r\n"))
    refused(CERTIFICATE.replace(b"-----BEGIN CERTIFICATE", b"-----BEGIN X509 CERTIFICATE"))
    refused(x509.load_pem_x509_certificate(CERTIFICATE).public_bytes(Encoding.DER))
    lines = CERTIFICATE.splitlines()
    refused(b"\n".join([lines[0], b"".join(lines[1:-1]), lines[-1], b""]))


def another_bit_string(pem: bytes, label: str) -> bytes:
    """The same signature in a BIT STRING that counts its last bit, a zero, as unused: good DER, too."""
    der = bytearray(base64.b64decode(b"".join(pem.splitlines()[1:-1])))
    assert (der[-65], der[-1] & 1) == (0, 0)
    der[-65] = 1
    text = base64.b64encode(der).decode()
    lines = "".join(f"{text[at : at + 64]}\n" for at in range(0, len(text), 64))
    return f"-----BEGIN {label}-----\n{lines}-----END {label}-----\n".encode()


def ends_even(pem: bytes) -> bool:
    return base64.b64decode(b"".join(pem.splitlines()[1:-1]))[-1] % 2 == 0


def test_what_stands_around_the_signed_part_has_one_spelling() -> None:
    """`cryptography` 50 reads both."""
    certificate = next(filter(ends_even, (DEVICE.certificate(MINE) for _ in range(100))))
    other = another_bit_string(certificate, "CERTIFICATE")
    x509.load_pem_x509_certificate(other).verify_directly_issued_by(MINE.ca)
    refused(other)
    names = (f"kitchen{number}" for number in range(100))
    request = next(filter(ends_even, (make_request(name, DEVICE.identity) for name in names)))
    other = another_bit_string(request, "CERTIFICATE REQUEST")
    assert x509.load_pem_x509_csr(other).is_signature_valid
    with pytest.raises(ProtocolError, match="FA-3030"):
        read_request(other)


@given(st.binary(max_size=300))
def test_garbage_is_refused(data: bytes) -> None:
    refused(data)
    with pytest.raises(ProtocolError, match="FA-3030"):
        read_request(data)
    with pytest.raises(ProtocolError, match="FA-3030"):
        read_node_key(data)


def test_a_device_keeps_its_id_and_has_another_with_another_key() -> None:
    public = raw_public(DEVICE.identity)
    assert device_id(public) == DEVICE.id
    assert len(DEVICE.id) == 32
    assert device_id(raw_public(Ed25519PrivateKey.generate())) != DEVICE.id


# requests


@pytest.mark.parametrize("name", ["k", "kitchen", "kü_che-2.og", "x" * 64, "ü" * 32, "रसोई"])
def test_a_request_brings_a_name_and_a_key(name: str) -> None:
    key = Ed25519PrivateKey.generate()
    assert read_request(make_request(name, key)) == (name, raw_public(key))


@pytest.mark.parametrize("name", ["x" * 65, "ü" * 33])
def test_a_name_that_is_too_long_for_a_certificate_is_refused(name: str) -> None:
    with pytest.raises(ProtocolError, match=r"FA-3030.*64 bytes"):
        make_request(name, DEVICE.identity)


@pytest.mark.parametrize("name", ["two words", "a/b", "a\nb", "a\x1b[2J", "a\u202eb", "kitchen\n"])
def test_a_name_that_no_device_may_have_is_refused(name: str) -> None:
    with pytest.raises(ProtocolError, match="FA-3030"):
        read_request(make_request(name, DEVICE.identity))


def test_a_request_that_was_changed_is_refused() -> None:
    request = make_request("kitchen", DEVICE.identity)
    for place in range(len(request)):
        data = bytearray(request)
        data[place] ^= 1
        with pytest.raises(ProtocolError, match="FA-3030"):
            read_request(bytes(data))
    for data in (
        request + b"\n",
        request * 2,
        request.replace(b"\n", b"\r\n"),
        *(request[:n] for n in range(len(request))),
    ):
        with pytest.raises(ProtocolError, match="FA-3030"):
            read_request(data)


def test_a_request_for_another_kind_of_key_is_refused() -> None:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kitchen")])
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    with pytest.raises(ProtocolError, match="FA-3030"):
        read_request(request.public_bytes(Encoding.PEM))


@pytest.mark.parametrize("subject", [[], ["a", "b"]])
def test_a_request_without_one_name_is_refused(subject: list[str]) -> None:
    names = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in subject])
    request = x509.CertificateSigningRequestBuilder().subject_name(names).sign(DEVICE.identity, None)
    with pytest.raises(ProtocolError, match="FA-3030"):
        read_request(request.public_bytes(Encoding.PEM))


# node keys


def spelled(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def test_a_node_key_comes_back() -> None:
    assert node_digest(read_node_key(spelled(DEVICE.node))) == NODE


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1(), ec.SECP256K1()])
def test_a_node_key_on_another_curve_is_refused(curve: ec.EllipticCurve) -> None:
    with pytest.raises(ProtocolError, match="FA-3030"):
        read_node_key(spelled(ec.generate_private_key(curve)))


def test_a_node_key_of_another_kind_or_spelling_is_refused() -> None:
    ed25519 = DEVICE.identity.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    good = spelled(DEVICE.node)
    unknown = good.replace(b"MFkwEwYHKoZIzj0C", b"MFkwEwYHKoZIzj1C")
    assert unknown != good
    for data in (ed25519, unknown, good * 2, good + b" ", good.replace(b"\n", b"\r\n"), CERTIFICATE, b""):
        with pytest.raises(ProtocolError, match="FA-3030"):
            read_node_key(data)


def test_possession_of_the_node_key_is_proven_for_one_request() -> None:
    proof = prove_node_key(b"request", DEVICE.node)
    check_node_key(b"request", DEVICE.node.public_key(), proof)
    other = ec.generate_private_key(ec.SECP256R1())
    for request, key in ((b"another", DEVICE.node), (b"request", other)):
        with pytest.raises(ProtocolError, match="FA-3030"):
            check_node_key(request, key.public_key(), proof)
    plain = DEVICE.node.sign(b"request", ec.ECDSA(hashes.SHA256()))
    for wrong in (b"", b"\0", proof[:-1], proof + b"\0", plain):
        with pytest.raises(ProtocolError, match="FA-3030"):
            check_node_key(b"request", DEVICE.node.public_key(), wrong)
