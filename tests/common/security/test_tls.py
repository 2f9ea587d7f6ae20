"""Real TLS: under the pinned root, the coordinator's certificate serves and a device's does not."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from common.security.certificates import issue_tls
from tests.common.security.made_messages import Coordinator, Device, pem

MINE, OTHER = Coordinator.make(), Coordinator.make()
HOST = "coordinator.example"


def holding(
    context: ssl.SSLContext,
    folder: Path,
    chain: Sequence[str],
    key: ec.EllipticCurvePrivateKey | Ed25519PrivateKey,
) -> ssl.SSLContext:
    """`context`, with a certificate chain (PEM) and its key."""
    (folder / "chain.pem").write_text("".join(chain))
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "key.pem").write_bytes(secret)
    context.load_cert_chain(folder / "chain.pem", folder / "key.pem")
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def server(
    folder: Path, chain: Sequence[str], key: ec.EllipticCurvePrivateKey | Ed25519PrivateKey
) -> ssl.SSLContext:
    return holding(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), folder, chain, key)


def client(root: x509.Certificate) -> ssl.SSLContext:
    """A device: it believes one root, and is as strict as OpenSSL can be."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=pem(root))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


def shake_hands(serving: ssl.SSLContext, asking: ssl.SSLContext, host: str | None = HOST) -> None:
    """A handshake in memory.

    Raises:
        ssl.SSLError: one side refuses the other.
    """
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = asking.wrap_bio(to_client, to_server, server_hostname=host)
    far = serving.wrap_bio(to_server, to_client, server_side=True)
    waiting = [near, far]
    while waiting:
        for side in list(waiting):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(side)
    assert near.version() == "TLSv1.3"


def test_the_coordinators_certificate_is_accepted_under_the_root(tmp_path: Path) -> None:
    certificate, key = issue_tls(MINE.root, MINE.root_key, [HOST, "127.0.0.1", "::1"])
    serving = server(tmp_path, [pem(certificate)], key)
    for host in (HOST, "127.0.0.1", "::1"):
        shake_hands(serving, client(MINE.root), host)
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        shake_hands(serving, client(MINE.root), "elsewhere.example")


def test_a_man_in_the_middle_with_a_certificate_of_another_root_is_refused(tmp_path: Path) -> None:
    certificate, key = issue_tls(OTHER.root, OTHER.root_key, [HOST])
    for chain in ([certificate], [certificate, OTHER.root]):
        with pytest.raises(ssl.SSLCertVerificationError):
            shake_hands(server(tmp_path, [pem(one) for one in chain], key), client(MINE.root))


def test_an_expired_certificate_is_refused(tmp_path: Path) -> None:
    certificate, key = issue_tls(
        MINE.root, MINE.root_key, [HOST], now=datetime.now(UTC) - timedelta(days=1000)
    )
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        shake_hands(server(tmp_path, [pem(certificate)], key), client(MINE.root))


@pytest.mark.parametrize("strict", [True, False])
def test_a_device_cannot_pose_as_the_coordinator(tmp_path: Path, strict: bool) -> None:
    """Not even towards one that looks at no host name."""
    device = Device()
    chain = [device.certificate(MINE).decode(), pem(MINE.ca)]
    asking = client(MINE.root)
    asking.check_hostname = False
    if not strict:
        asking.verify_flags &= ~ssl.VERIFY_X509_STRICT
    with pytest.raises(ssl.SSLCertVerificationError, match=r"purpose|invalid CA"):
        shake_hands(server(tmp_path, chain, device.identity), asking, None)


def test_the_device_ca_can_certify_no_server(tmp_path: Path) -> None:
    """Whoever breaks into the public port has its key, and no device believes what it signs for a server."""
    certificate, key = issue_tls(MINE.ca, MINE.ca_key, [HOST])
    with pytest.raises(ssl.SSLCertVerificationError, match=r"purpose|invalid CA"):
        shake_hands(server(tmp_path, [pem(certificate), pem(MINE.ca)], key), client(MINE.root))


def test_a_device_can_certify_nothing(tmp_path: Path) -> None:
    device = Device()
    mine = x509.load_pem_x509_certificate(device.certificate(MINE))
    certificate, key = issue_tls(mine, device.identity, [HOST])
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(server(tmp_path, [pem(certificate), pem(mine), pem(MINE.ca)], key), client(MINE.root))


def test_a_device_may_be_a_client(tmp_path: Path) -> None:
    """So it is for its purpose, and for nothing else, that a device is refused above."""
    device = Device()
    (tmp_path / "device").mkdir()
    certificate, key = issue_tls(MINE.root, MINE.root_key, [HOST])
    serving = server(tmp_path, [pem(certificate)], key)
    serving.load_verify_locations(cadata=pem(MINE.root))
    serving.verify_mode = ssl.CERT_REQUIRED
    chain = [device.certificate(MINE).decode(), pem(MINE.ca)]
    shake_hands(serving, holding(client(MINE.root), tmp_path / "device", chain, device.identity))
