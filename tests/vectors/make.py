"""Make the test vectors anew. They are frozen: whoever does this changes the protocol.

    python -m tests.vectors.make [--force]

Bytes are in hexadecimal; texts and bodies are as they are. The keys are test keys, private halves and all.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import struct
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from common.protocol.answer import PrivacySpent, Refusal, Report, encode_answer, encode_refusal
from common.protocol.enrolment import EnrolmentRequest, RenewalRequest
from common.protocol.invitation import Invitation
from common.protocol.plan import Plan, Privacy, sign_plan
from common.protocol.tensors import Weights, encode_weights
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
from common.security.envelope import Binding, parse_envelope, seal
from common.security.sealing import OpeningKey, Suite
from common.security.statement import Kind, key_id, raw_public, sign_detached, sign_statement
from common.security.trust import EnvelopeKey, Trust, fingerprint
from common.task import Task
from tests.common.security.made_messages import WEIGHTS, pem

FOLDER = Path(__file__).parent
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def seed(name: str) -> bytes:
    """32 bytes that are the same every time."""
    return hashlib.sha256(f"fedaudio test vector: {name}".encode()).digest()


def signing_key(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(seed(name))


def opening_key(suite: Suite) -> OpeningKey:
    x25519 = X25519PrivateKey.from_private_bytes(seed(f"x25519 of {suite.name}"))
    if suite is Suite.X25519:
        return OpeningKey(x25519, None)
    return OpeningKey(x25519, MLKEM768PrivateKey.from_seed_bytes(seed("mlkem d") + seed("mlkem z")))


def key_vectors() -> list[object]:
    """Private and public keys with their ids."""
    vectors: list[object] = []
    for name in ("device", "plan", "release", "root"):
        public = raw_public(signing_key(name))
        facts = {
            "kind": "ed25519",
            "name": name,
            "private": seed(name),
            "public": public,
            "id": key_id(public),
        }
        vectors.append(facts | ({"device": device_id(public)} if name == "device" else {}))
    for suite in Suite:
        key = opening_key(suite)
        facts = {"kind": suite.name.lower(), "suite": int(suite), "x25519": key.x25519.private_bytes_raw()}
        if key.mlkem is not None:
            facts["mlkem_seed"] = key.mlkem.private_bytes_raw()
        vectors.append(facts | {"public": key.public.raw, "id": key.public.id})
    return vectors


def statement_vectors() -> list[object]:
    """One body, signed as every kind."""
    kinds: tuple[Kind, ...] = ("trust", "plan", "release", "renewal")
    body = b'{"any":"body"}'
    return [
        {
            "kind": kind,
            "private": seed("plan"),
            "body": body.decode(),
            "signed": b"fedaudio/%s/v1\0" % kind.encode() + hashlib.sha256(body).digest(),
            "signature": sign_detached(kind, body, signing_key("plan")),
            "statement": sign_statement(kind, body, signing_key("plan")),
        }
        for kind in kinds
    ]


def trust_vector() -> dict[str, object]:
    """A trust statement under a root of its own, for Ed25519 certificates are made with fresh keys."""
    root, root_key = make_root(NOW)
    ca, _ = issue_device_ca(root, root_key, NOW)
    trust = Trust(
        serial=3,
        created=NOW,
        expires=NOW + timedelta(days=365),
        root=pem(root),
        device_ca=pem(ca),
        plan=(raw_public(signing_key("plan")).hex(),),
        release=(raw_public(signing_key("release")).hex(),),
        envelope=tuple(
            EnvelopeKey(suite=suite, key=opening_key(suite).public.raw.hex()) for suite in reversed(Suite)
        ),
    )
    body = canonical(trust)
    return {
        "root_private": root_key.private_bytes_raw(),
        "pin": fingerprint(root),
        "body": body.decode(),
        "statement": sign_statement("trust", body, root_key),
    }


def make_plan() -> Plan:
    return Plan(
        coordinator=seed("pin").hex(),
        run="00c0ffee00c0ffee",
        round=7,
        nonce=seed("nonce").hex(),
        expires=2_000_000_000,
        cohort=4,
        recipient=opening_key(Suite.HYBRID).public.id.hex(),
        task=Task(labels=("yes", "näh")),
        privacy=Privacy(),
        base=hashlib.sha256(encode_weights(WEIGHTS)).hexdigest(),
    )


def plan_vector() -> dict[str, object]:
    body, signed = canonical(make_plan()), sign_plan(make_plan(), signing_key("plan"))
    return {
        "private": seed("plan"),
        "body": body.decode(),
        "statement": signed,
        "digest": hashlib.sha256(signed).digest(),
    }


def make_report(kind: str) -> Report:
    plan, train = make_plan(), kind == "train"
    return Report.model_validate(
        {
            "run": plan.run,
            "round": plan.round,
            "kind": kind,
            "base": plan.base,
            "device": device_id(raw_public(signing_key("device"))),
            "clips": 12,
            "correct": 0 if train else 9,
            "loss": 0.25,
            "seconds": 1e-05,
            "privacy": PrivacySpent(
                epsilon=0.5, delta=1e-05, accountant="rdp", noise_multiplier=1.0, sampling_rate=0.125, steps=8
            )
            if train
            else None,
        }
    )


def answer_vectors() -> list[object]:
    """A training, an evaluation, a refusal."""
    train, evaluate = make_report("train"), make_report("evaluate")
    refusal = Refusal(code="FA-4102", reason="The battery is at 12 %.")
    return [
        {"kind": "train", "note": canonical(train).decode(), "answer": encode_answer(train, WEIGHTS)},
        {"kind": "evaluate", "note": canonical(evaluate).decode(), "answer": encode_answer(evaluate)},
        {"kind": "refusal", "note": canonical(refusal).decode(), "answer": encode_refusal(refusal)},
    ]


def tensor_vectors() -> list[object]:
    weights: list[Weights] = [WEIGHTS, {}]
    return [
        {
            "tensors": [
                {"name": name, "shape": list(value.shape), "values": value.astype("<f4").tobytes()}
                for name, value in given.items()
            ],
            "encoded": encode_weights(given),
        }
        for given in weights
    ]


def envelope_vectors() -> list[object]:
    """An envelope of each suite. Sealing draws fresh randomness, so these are to be opened."""
    device, plan = signing_key("device"), sign_plan(make_plan(), signing_key("plan"))
    binding = Binding(
        run=bytes.fromhex(make_plan().run),
        round=7,
        device=bytes.fromhex(device_id(raw_public(device))),
        counter=42,
        plan=hashlib.sha256(plan).digest(),
        base=bytes.fromhex(make_plan().base),
        not_after=2_000_000_000,
    )
    payload = encode_answer(make_report("train"), WEIGHTS)
    vectors: list[object] = []
    for suite in Suite:
        key = opening_key(suite)
        envelope = parse_envelope(data := seal(payload, binding, device, key.public), 10_000)
        vectors.append(
            {
                "suite": int(suite),
                "device_private": seed("device"),
                "x25519": key.x25519.private_bytes_raw(),
                "mlkem_seed": key.mlkem.private_bytes_raw() if key.mlkem else None,
                "binding": dataclasses.asdict(binding),
                "payload": payload,
                "header": envelope.header,
                "info": b"fedaudio/FAE1/seal\0" + hashlib.sha256(envelope.header).digest(),
                "sealed": bytes(envelope.sealed),
                "signed": envelope.signed,
                "signature": envelope.signature,
                "envelope": data,
                "digest": envelope.digest,
            }
        )
    return vectors


def invitation_vectors() -> list[object]:
    addresses = ("coordinator.example:8650", "192.0.2.1:443", "[2001:db8::1]:8650")
    return [
        {"address": address, "pin": seed("pin"), "token": seed("token")[:16], "text": str(invitation)}
        for address in addresses
        for invitation in [Invitation(address, seed("pin").hex(), seed("token")[:16])]
    ]


def enrolment_vector() -> dict[str, object]:
    """Requests of a device, and the certificate it was given."""
    device, node = signing_key("device"), ec.generate_private_key(ec.SECP256R1())
    ca, ca_key = issue_device_ca(*make_root(NOW), NOW)
    request = make_request("kitchen", device)
    certificate = issue_device(
        ca,
        ca_key,
        device=device_id(raw_public(device)),
        name="kitchen",
        identity=raw_public(device),
        node=node_digest(node.public_key()),
        days=60,
        now=NOW,
    )
    keys = {
        "request": request.decode(),
        "node_key": node.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
        "node_proof": prove_node_key(request, node).hex(),
    }
    serial = f"{certificate.serial_number:x}"
    renewal = canonical(RenewalRequest(device=device_id(raw_public(device)), serial=serial, **keys))
    return {
        "identity_private": seed("device"),
        "node_private": node.private_numbers().private_value.to_bytes(32, "big"),
        "node_digest": node_digest(node.public_key()),
        "node_signed": b"fedaudio/node/v1\0" + hashlib.sha256(request).digest(),
        "enrolment": canonical(EnrolmentRequest(token=seed("token")[:16].hex(), **keys)).decode(),
        "renewal": sign_statement("renewal", renewal, device),
        "device_ca": pem(ca),
        "certificate": pem(certificate),
        "device": device_id(raw_public(device)),
        "serial": serial,
    }


def refused_vectors() -> list[object]:
    """What must be refused, and with which code; the keys are those of the good ones."""
    plan, body = sign_plan(make_plan(), signing_key("plan")), canonical(make_plan())
    stranger = sign_plan(make_plan(), signing_key("stranger"))
    envelope = bytes.fromhex(json.loads((FOLDER / "envelopes.json").read_bytes())[0]["envelope"])
    changes = {
        "a key twice": (b'"round":7', b'"round":7,"round":7'),
        "a space": (b'"round":7', b'"round": 7'),
        "an integer with a point": (b'"round":7', b'"round":7.0'),
        "a fraction without one": (b'"seconds":600.0', b'"seconds":600'),
        "keys in another order": (b'"round":7,"kind":"train"', b'"kind":"train","round":7'),
        "an escape that is not needed": (b'"yes"', b'"\\u0079es"'),
        "a letter as an escape": ("ä".encode(), b"\\u00e4"),
        "an unknown key": (b'"round":7', b'"round":7,"more":1'),
        "a round out of range": (b'"round":7', b'"round":4294967296'),
    }
    vectors: list[object] = [
        {
            "kind": "plan",
            "what": what,
            "code": "FA-3005",
            "data": sign_statement("plan", body.replace(*change, 1), signing_key("plan")),
        }
        for what, change in changes.items()
    ]
    as_release = sign_statement("release", body, signing_key("plan"))
    for what, code, data in (
        ("a bit of the body flipped", "FA-3018", plan[:-1] + bytes([plan[-1] ^ 1])),
        ("signed as a release", "FA-3018", as_release),
        ("signed by a stranger", "FA-3017", stranger),
        ("another magic", "FA-3016", b"FAS2" + plan[4:]),
    ):
        vectors.append({"kind": "plan", "what": what, "code": code, "data": data})
    for what, code, data in (
        ("a byte more", "FA-3021", envelope + b"\0"),
        ("a byte less", "FA-3021", envelope[:-1]),
        ("two in one", "FA-3021", envelope * 2),
        ("an unknown suite", "FA-3021", envelope[:4] + b"\3" + envelope[5:]),
        ("another suite", "FA-3021", envelope[:4] + b"\2" + envelope[5:]),
        ("another round", "FA-3023", envelope[:16] + b"\x08" + envelope[17:]),
        ("a bit of the ciphertext flipped", "FA-3023", envelope[:140] + b"\0" + envelope[141:]),
        ("a bit of the signature flipped", "FA-3023", envelope[:-1] + bytes([envelope[-1] ^ 1])),
    ):
        vectors.append({"kind": "envelope", "what": what, "code": code, "data": data})
    return vectors


def number_vectors() -> list[object]:
    """How a binary64 number is spelled in canonical JSON."""
    numbers = (0.0, -0.0, 600.0, 0.1, 0.0001, 1e-05, 1.5e-07, 1e15, 1e16, 1.5e300, 5e-324, 1 / 3, 2.0**53)
    return [{"bits": struct.pack(">d", number), "text": json.dumps(number)} for number in numbers]


VECTORS = {
    "keys": key_vectors,
    "numbers": number_vectors,
    "statements": statement_vectors,
    "trust": trust_vector,
    "plan": plan_vector,
    "tensors": tensor_vectors,
    "answers": answer_vectors,
    "envelopes": envelope_vectors,
    "invitations": invitation_vectors,
    "enrolment": enrolment_vector,
    "refused": refused_vectors,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--force", action="store_true", help="overwrite the vectors that are there")
    arguments = parser.parse_args()
    paths = {name: FOLDER / f"{name}.json" for name in VECTORS}
    there = [path.name for path in paths.values() if path.exists()]
    if there and not arguments.force:
        sys.exit(f"{there[0]} is there, and frozen. Only a new version of the protocol changes it: --force")
    for name, path in paths.items():
        text = json.dumps(VECTORS[name](), indent=1, ensure_ascii=False, default=bytes.hex)
        path.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
