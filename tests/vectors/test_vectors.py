"""The frozen vectors: what the code makes of them, and what a few lines written from docs/protocol.md do."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import struct
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from common.errors import ProtocolError
from common.protocol.answer import Answer, Refusal, decode_answer, encode_answer, encode_refusal
from common.protocol.enrolment import EnrolmentRequest, RenewalRequest
from common.protocol.invitation import Invitation
from common.protocol.plan import open_plan, sign_plan
from common.protocol.tensors import decode_weights, encode_weights, schema_of
from common.security.canonical import canonical, read_canonical
from common.security.certificates import (
    check_node_key,
    device_id,
    node_digest,
    read_device_certificate,
    read_node_key,
    read_request,
)
from common.security.envelope import Binding, open_envelope, parse_envelope, seal
from common.security.sealing import OpeningKey, Suite
from common.security.statement import check_detached, key_id, open_statement, sign_detached, sign_statement
from common.security.trust import open_trust
from tests.common.security.made_messages import SCHEMA, WEIGHTS
from tests.vectors.make import VECTORS

FOLDER = Path(__file__).parent


@cache
def vectors(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_bytes())


def raw(text: str) -> bytes:
    return bytes.fromhex(text)


def opening_key(vector: dict[str, Any]) -> OpeningKey:
    mlkem = vector.get("mlkem_seed")
    return OpeningKey(
        X25519PrivateKey.from_private_bytes(raw(vector["x25519"])),
        MLKEM768PrivateKey.from_seed_bytes(raw(mlkem)) if mlkem else None,
    )


def test_there_is_a_file_for_each_and_none_besides() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(VECTORS)


def test_frozen_vectors_are_not_overwritten() -> None:
    before = {path: path.read_bytes() for path in FOLDER.glob("*.json")}
    made = subprocess.run(
        [sys.executable, "-m", "tests.vectors.make"],
        check=False,
        cwd=FOLDER.parents[1],
        capture_output=True,
        timeout=120,
    )
    assert made.returncode == 1
    assert b"frozen" in made.stderr
    assert before == {path: path.read_bytes() for path in FOLDER.glob("*.json")}


# with the code


@pytest.mark.parametrize("vector", vectors("keys"), ids=lambda vector: vector.get("name", vector["kind"]))
def test_keys(vector: dict[str, Any]) -> None:
    if vector["kind"] == "ed25519":
        public = Ed25519PrivateKey.from_private_bytes(raw(vector["private"])).public_key().public_bytes_raw()
        assert public.hex() == vector["public"]
        assert key_id(public).hex() == vector["id"]
        assert "device" not in vector or device_id(public) == vector["device"]
    else:
        public_key = opening_key(vector).public
        assert (public_key.raw.hex(), public_key.id.hex()) == (vector["public"], vector["id"])
        assert public_key.suite == vector["suite"]


@pytest.mark.parametrize("vector", vectors("numbers"), ids=lambda vector: vector["text"])
def test_numbers(vector: dict[str, str]) -> None:
    (number,) = struct.unpack(">d", raw(vector["bits"]))
    assert json.dumps(number) == vector["text"]


@pytest.mark.parametrize("vector", vectors("statements"), ids=lambda vector: vector["kind"])
def test_statements(vector: dict[str, Any]) -> None:
    key = Ed25519PrivateKey.from_private_bytes(raw(vector["private"]))
    kind, body = vector["kind"], vector["body"].encode()
    assert sign_statement(kind, body, key).hex() == vector["statement"]
    assert sign_detached(kind, body, key).hex() == vector["signature"]
    signers = [key.public_key().public_bytes_raw()]
    assert open_statement(kind, raw(vector["statement"]), signers) == body
    assert check_detached(kind, raw(vector["signature"]), body, signers) == signers[0]


def test_trust() -> None:
    vector = vectors("trust")
    trust = open_trust(raw(vector["statement"]), vector["pin"])
    assert canonical(trust).decode() == vector["body"]
    keys = [opening_key(key).public for key in vectors("keys") if "x25519" in key]
    assert [trust.envelope_key(key.id) for key in keys] == keys


def test_plan() -> None:
    vector = vectors("plan")
    key = Ed25519PrivateKey.from_private_bytes(raw(vector["private"]))
    plan = open_plan(raw(vector["statement"]), [key.public_key().public_bytes_raw()])
    assert canonical(plan).decode() == vector["body"]
    assert sign_plan(plan, key).hex() == vector["statement"]


@pytest.mark.parametrize("vector", vectors("tensors"), ids=["three", "none"])
def test_tensors(vector: dict[str, Any]) -> None:
    weights = {
        entry["name"]: np.frombuffer(raw(entry["values"]), "<f4").reshape(entry["shape"])
        for entry in vector["tensors"]
    }
    assert encode_weights(weights).hex() == vector["encoded"]
    back = decode_weights(raw(vector["encoded"]), schema_of(weights))
    assert [(name, value.tobytes()) for name, value in back.items()] == [
        (name, value.tobytes()) for name, value in weights.items()
    ]


@pytest.mark.parametrize("vector", vectors("answers"), ids=lambda vector: vector["kind"])
def test_answers(vector: dict[str, str]) -> None:
    answer = decode_answer(raw(vector["answer"]), SCHEMA)
    if isinstance(answer, Refusal):
        note, again = canonical(answer), encode_refusal(answer)
    else:
        note, again = canonical(answer.report), encode_answer(answer.report, answer.delta or None)
    assert note.decode() == vector["note"]
    assert again.hex() == vector["answer"]


@pytest.mark.parametrize("vector", vectors("envelopes"), ids=lambda vector: str(vector["suite"]))
def test_envelopes(vector: dict[str, Any]) -> None:
    device = Ed25519PrivateKey.from_private_bytes(raw(vector["device_private"]))
    signer, key = device.public_key().public_bytes_raw(), opening_key(vector)
    envelope = parse_envelope(raw(vector["envelope"]), 10_000)
    facts = vector["binding"]
    binding = Binding(
        **{name: raw(value) if isinstance(value, str) else value for name, value in facts.items()}
    )
    assert (envelope.binding, envelope.suite) == (binding, vector["suite"])
    assert envelope.digest == vector["digest"]
    payload = open_envelope(envelope, signer, key)
    assert payload.hex() == vector["payload"]
    answer = decode_answer(payload, SCHEMA)
    assert isinstance(answer, Answer)
    assert all(answer.delta[name].tobytes() == value.tobytes() for name, value in WEIGHTS.items())
    again = parse_envelope(seal(payload, binding, device, key.public), 10_000)
    assert again.header.hex() == vector["header"]


@pytest.mark.parametrize("vector", vectors("invitations"), ids=lambda vector: vector["address"])
def test_invitations(vector: dict[str, str]) -> None:
    invitation = Invitation(vector["address"], vector["pin"], raw(vector["token"]))
    assert str(invitation) == vector["text"]
    assert Invitation.parse(vector["text"]) == invitation


def test_enrolment() -> None:
    vector = vectors("enrolment")
    enrolment = read_canonical(EnrolmentRequest, vector["enrolment"].encode())
    assert isinstance(enrolment, EnrolmentRequest)
    name, identity = read_request(enrolment.request.encode())
    assert (name, device_id(identity)) == ("kitchen", vector["device"])
    body = open_statement("renewal", raw(vector["renewal"]), [identity])
    renewal = read_canonical(RenewalRequest, body)
    assert isinstance(renewal, RenewalRequest)
    for keys in (enrolment, renewal):
        node = read_node_key(keys.node_key.encode())
        check_node_key(keys.request.encode(), node, raw(keys.node_proof))
        assert node_digest(node) == vector["node_digest"]
    ca = x509.load_pem_x509_certificate(vector["device_ca"].encode())
    certificate = read_device_certificate(vector["certificate"].encode(), ca)
    assert (certificate.device, certificate.name, certificate.identity) == (vector["device"], name, identity)
    assert (certificate.node, certificate.serial) == (vector["node_digest"], vector["serial"])


@pytest.mark.parametrize("vector", vectors("refused"), ids=lambda vector: vector["what"])
def test_refused(vector: dict[str, str]) -> None:
    with pytest.raises(ProtocolError, match=vector["code"]):
        read_as(vector["kind"], raw(vector["data"]))


def read_as(kind: str, data: bytes) -> object:
    """Read what may be a plan or an envelope with the keys of the good ones."""
    if kind == "plan":
        return open_plan(data, [raw(key["public"]) for key in vectors("keys") if key.get("name") == "plan"])
    sealed = vectors("envelopes")[0]
    device = Ed25519PrivateKey.from_private_bytes(raw(sealed["device_private"]))
    signer = device.public_key().public_bytes_raw()
    return open_envelope(parse_envelope(data, 10_000), signer, opening_key(sealed))


# without the code: struct, hashlib and primitives, written from docs/protocol.md


def sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def test_key_ids_from_the_page() -> None:
    for vector in vectors("keys"):
        suite = bytes([vector["suite"]]) if "suite" in vector else b""
        assert sha256(suite, raw(vector["public"]))[:8].hex() == vector["id"]
        if "device" in vector:
            assert sha256(raw(vector["public"]))[:16].hex() == vector["device"]


def test_statements_from_the_page() -> None:
    for vector in vectors("statements"):
        data, kind, body = raw(vector["statement"]), vector["kind"].encode(), vector["body"].encode()
        magic, signer, signature = struct.unpack(">4s8s64s", data[:76])
        assert (magic, data[76:]) == (b"FAS1", body)
        key = Ed25519PrivateKey.from_private_bytes(raw(vector["private"]))
        assert sha256(key.public_key().public_bytes_raw())[:8] == signer
        assert key.sign(b"fedaudio/" + kind + b"/v1\0" + sha256(body)) == signature


def test_the_trust_statement_from_the_page() -> None:
    vector = vectors("trust")
    data = raw(vector["statement"])
    trust = json.loads(data[76:])
    root = x509.load_pem_x509_certificate(trust["root"].encode())
    assert root.fingerprint(hashes.SHA256()).hex() == vector["pin"]
    key = root.public_key()
    assert isinstance(key, Ed25519PublicKey)
    key.verify(data[12:76], b"fedaudio/trust/v1\0" + sha256(data[76:]))
    spelled = json.dumps(trust, separators=(",", ":"), ensure_ascii=False)
    assert spelled.encode() == data[76:]


def labelled_extract(suite: bytes, label: bytes, secret: bytes, salt: bytes = b"") -> bytes:
    """RFC 9180, 4."""
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + secret, "sha256")


def labelled_expand(suite: bytes, key: bytes, label: bytes, info: bytes, size: int) -> bytes:
    """RFC 9180, 4; at most one block is ever asked for."""
    return hmac.digest(key, struct.pack(">H", size) + b"HPKE-v1" + suite + label + info + b"\x01", "sha256")[
        :size
    ]


def shared_secret(vector: dict[str, Any], encapsulated: bytes) -> tuple[int, bytes]:
    """The KEM's id and what it yields: DHKEM (RFC 9180, 4.1) or X-Wing."""
    x25519 = X25519PrivateKey.from_private_bytes(raw(vector["x25519"]))
    public = x25519.public_key().public_bytes_raw()
    agreed = x25519.exchange(X25519PublicKey.from_public_bytes(encapsulated[-32:]))
    if vector["mlkem_seed"] is None:
        suite = b"KEM\x00\x20"
        extracted = labelled_extract(suite, b"eae_prk", agreed)
        return 0x20, labelled_expand(suite, extracted, b"shared_secret", encapsulated + public, 32)
    mlkem = MLKEM768PrivateKey.from_seed_bytes(raw(vector["mlkem_seed"])).decapsulate(encapsulated[:1088])
    return 0x647A, hashlib.sha3_256(mlkem + agreed + encapsulated[-32:] + public + b"\\.//^\\").digest()


def open_sealed(kem: int, secret: bytes, info: bytes, ciphertext: bytes) -> bytes:
    """RFC 9180, 5.1 and 6.1: base mode, HKDF-SHA256 (1), AES-256-GCM (2), no AAD."""
    suite = b"HPKE" + struct.pack(">HHH", kem, 1, 2)
    context = (
        b"\0" + labelled_extract(suite, b"psk_id_hash", b"") + labelled_extract(suite, b"info_hash", info)
    )
    scheduled = labelled_extract(suite, b"secret", b"", secret)
    key = labelled_expand(suite, scheduled, b"key", context, 32)
    nonce = labelled_expand(suite, scheduled, b"base_nonce", context, 12)
    return AESGCM(key).decrypt(nonce, ciphertext, b"")


@pytest.mark.parametrize("vector", vectors("envelopes"), ids=lambda vector: str(vector["suite"]))
def test_envelopes_from_the_page(vector: dict[str, Any]) -> None:
    data, bound = raw(vector["envelope"]), vector["binding"]
    header, sealed, signature = data[:133], data[133:-64], data[-64:]
    device = Ed25519PrivateKey.from_private_bytes(raw(vector["device_private"]))
    signer = device.public_key().public_bytes_raw()
    encapsulated = {Suite.X25519: 32, Suite.HYBRID: 1120}[vector["suite"]]
    public = next(key["public"] for key in vectors("keys") if key.get("suite") == vector["suite"])
    expected = b"".join(
        (
            b"FAE1",
            bytes([vector["suite"]]),
            raw(bound["run"]),
            struct.pack(">I", bound["round"]),
            raw(bound["device"]),
            struct.pack(">Q", bound["counter"]),
            sha256(signer)[:8],
            sha256(bytes([vector["suite"]]), raw(public))[:8],
            raw(vectors("plan")["digest"]),
            raw(bound["base"]),
            struct.pack(">Q", bound["not_after"]),
            struct.pack(">I", len(sealed)),
        )
    )
    assert header == expected
    device.public_key().verify(signature, b"fedaudio/FAE1/sign\0" + sha256(header) + sha256(sealed))
    assert device.sign(raw(vector["signed"])) == signature
    kem, secret = shared_secret(vector, sealed[:encapsulated])
    info = b"fedaudio/FAE1/seal\0" + sha256(header)
    payload = open_sealed(kem, secret, info, sealed[encapsulated:])
    assert payload.hex() == vector["payload"]
    kind, size = struct.unpack(">BI", payload[:5])
    assert (kind, json.loads(payload[5 : 5 + size])["device"]) == (1, bound["device"])
    (header_size,) = struct.unpack("<Q", payload[5 + size : 13 + size])
    tensors = json.loads(payload[13 + size : 13 + size + header_size])
    values = payload[13 + size + header_size :]
    for name, entry in tensors.items():
        begin, end = entry["data_offsets"]
        assert values[begin:end] == WEIGHTS[name].tobytes()


def test_invitations_from_the_page() -> None:
    for vector in vectors("invitations"):
        text = vector["text"].removeprefix("fa1_")
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        assert data[:16].hex() == vector["token"]
        assert data[16:48].hex() == vector["pin"]
        assert data[48:-4].decode() == vector["address"]
        assert sha256(data[:-4])[:4] == data[-4:]


def test_the_node_proof_from_the_page() -> None:
    vector = vectors("enrolment")
    enrolment = json.loads(vector["enrolment"])
    key = load_pem_public_key(enrolment["node_key"].encode())
    assert isinstance(key, ec.EllipticCurvePublicKey)
    signed = b"fedaudio/node/v1\0" + sha256(enrolment["request"].encode())
    key.verify(raw(enrolment["node_proof"]), signed, ec.ECDSA(hashes.SHA256()))
