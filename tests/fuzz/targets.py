"""What is fuzzed: for each sort of message, good ones, and the whole way of checking that they go."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import accumulate
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import BaseModel

from common.errors import ProtocolError
from common.protocol.answer import Answer, Refusal, decode_answer, encode_answer, encode_refusal
from common.protocol.enrolment import Enrolled, EnrolmentRequest, Refused, RenewalRequest
from common.protocol.invitation import Invitation
from common.protocol.plan import open_plan, parse_plan
from common.protocol.release import parse_manifest
from common.protocol.signed_release import check_manifest, open_manifest
from common.security.canonical import canonical, read_canonical
from common.security.certificates import (
    check_node_key,
    make_request,
    read_device_certificate,
    read_node_key,
    read_request,
)
from common.security.envelope import HEADER_BYTES, SIGNATURE_BYTES
from common.security.sealing import Suite
from common.security.statement import SIGNATURE_BYTES as STATEMENT_HEAD
from common.security.statement import open_statement, raw_public, sign_statement
from common.security.trust import check_time, open_trust
from fl_server.intake import SealedIntake
from fl_server.senders import Sender, Senders
from tests import made_manifests
from tests.common.security.made_messages import SCHEMA, WEIGHTS, Coordinator, Device

HEADER_SIZES = (4, 1, 8, 4, 16, 8, 8, 8, 32, 32, 8, 4)
HEADER_FIELDS = tuple(zip(accumulate((0, *HEADER_SIZES[:-1])), accumulate(HEADER_SIZES), strict=True))
STATEMENT_FIELDS = ((0, 4), (4, 12), (12, 76))
ANSWER_FIELDS = ((0, 1), (1, 5))


class OtherValueError(Exception):
    """Another message in its one encoding, such as whoever may send this sort could have sent."""


@dataclass(frozen=True)
class Target:
    """One sort of message.

    Args:
        corpus: good ones; the first is spoiled with parts of all.
        check: the whole way of checking; returns if the message is accepted, else raises a `FedAudioError`.
        fields: places of fields that have one.
        same: what is left of a message without what is allowed to differ.
    """

    name: str
    corpus: tuple[bytes, ...]
    check: Callable[[bytes], object]
    fields: Sequence[tuple[int, int]] = ()
    same: Callable[[bytes], bytes] = bytes


class OneSender:
    """A roster of one device."""

    def __init__(self, device: Device) -> None:
        self._sender = Sender(device.id, device.name, raw_public(device.identity), 0)

    def active(self, device: str) -> Sender:
        if device != self._sender.id:
            raise ProtocolError("FA-3050", "Unknown.", "")
        return self._sender


def every_target() -> list[Target]:
    """All there is to fuzz, made with fresh keys."""
    coordinator, device, other = Coordinator.make(), Device("kitchen"), Device("hall")
    return [
        *(_envelopes(suite, device, other) for suite in Suite),
        *(_resigned_envelopes(suite, device) for suite in Suite),
        _answers(device),
        _plans(coordinator),
        _trust(coordinator),
        _manifests(),
        *_bodies(coordinator, device),
        _invitations(coordinator),
        *_certificates(coordinator, device, other),
        *_requests(device, other),
        *_node_keys(device, other),
        _enrolments(device, other),
        _renewals(device, other),
    ]


def _envelopes(suite: Suite, device: Device, other: Device) -> Target:
    """As the coordinator takes them in."""
    coordinator, later = Coordinator.make(suite), int(time.time()) + 86_400
    order = coordinator.signed_plan(expires=later)
    good = device.envelope(coordinator, order, not_after=later)
    corpus = (
        good,
        device.envelope(coordinator, order, counter=2, not_after=later),
        device.envelope(coordinator, coordinator.signed_plan(round=8), round=8, not_after=later),
        device.envelope(replace(coordinator, opening=Coordinator.make().opening), order, not_after=later),
        other.envelope(coordinator, order, not_after=later),
    )

    plan = open_plan(order, [raw_public(coordinator.plan_key)])
    senders = cast(Senders, OneSender(device))

    def check(data: bytes) -> object:
        # A fresh one, or all after the first would be refused for their counter.
        return SealedIntake(senders, coordinator.opening, plan, order, SCHEMA).read(data, device.id)

    return Target(f"envelope {suite.name.lower()}", corpus, check, HEADER_FIELDS)


def _resigned_envelopes(suite: Suite, device: Device) -> Target:
    """A device that signs whatever header and ciphertext it likes."""
    plain = _envelopes(suite, device, device)
    corpus = tuple(data[:-SIGNATURE_BYTES] for data in plain.corpus)

    def check(data: bytes) -> object:
        parts = data[:HEADER_BYTES], data[HEADER_BYTES:]
        signed = b"".join(hashlib.sha256(part).digest() for part in parts)
        return plain.check(data + device.identity.sign(b"fedaudio/FAE1/sign\0" + signed))

    return Target(f"{plain.name}, re-signed", corpus, check, HEADER_FIELDS)


def _answers(device: Device) -> Target:
    """What a device may put into an envelope."""
    train, evaluate = device.report(), device.report(kind="evaluate")
    corpus = (
        encode_answer(train, WEIGHTS),
        encode_answer(evaluate),
        encode_refusal(Refusal(code="FA-4102", reason="The battery is low.")),
    )

    def check(data: bytes) -> object:
        answer = decode_answer(data, SCHEMA)
        if isinstance(answer, Answer):
            again = encode_answer(answer.report, answer.delta or None)
        else:
            again = encode_refusal(answer)
        return _unless_other(again, data)

    return Target("answer", corpus, check, ANSWER_FIELDS)


def _plans(coordinator: Coordinator) -> Target:
    signers = [raw_public(coordinator.plan_key)]
    corpus = (coordinator.signed_plan(), coordinator.signed_plan(round=8), Coordinator.make().signed_plan())
    return Target("plan", corpus, lambda data: open_plan(data, signers), STATEMENT_FIELDS)


def _trust(coordinator: Coordinator) -> Target:
    corpus = (
        coordinator.signed_trust(),
        coordinator.signed_trust(serial=4),
        Coordinator.make().signed_trust(serial=5),
    )
    return Target("trust", corpus, lambda data: open_trust(data, coordinator.pin, 3), STATEMENT_FIELDS)


def _manifests() -> Target:
    """manifest.sig and manifest.json, one after the other."""

    def release(version: int) -> bytes:
        weights = made_manifests.small_weights(version)
        manifest = made_manifests.make_manifest(version, weights, b"graph")
        return sign_statement("release", canonical(manifest), made_manifests.KEY)

    def check(data: bytes) -> object:
        manifest = open_manifest(data[STATEMENT_HEAD:], data[:STATEMENT_HEAD], made_manifests.SIGNERS)
        return check_manifest(manifest, made_manifests.COORDINATOR, made_manifests.NOW)

    return Target("manifest", (release(3), release(4)), check, STATEMENT_FIELDS)


def _bodies(coordinator: Coordinator, device: Device) -> list[Target]:
    """Texts as a signer might spell them: what is read is what it would have written, or nothing is."""

    def reader(model: type[BaseModel]) -> Callable[[bytes], object]:
        def check(data: bytes) -> object:
            value = read_canonical(model, data)
            if isinstance(value, str):
                raise ProtocolError("FA-3025", value, "")
            return _unless_other(canonical(value), data)

        return check

    def plan(data: bytes) -> object:
        return _unless_other(canonical(parse_plan(data)), data)

    def trust(data: bytes) -> object:
        signed = sign_statement("trust", data, coordinator.root_key)
        return _unless_other(canonical(open_trust(signed, coordinator.pin)), data)

    def manifest(data: bytes) -> object:
        return _unless_other(canonical(parse_manifest(data)), data)

    weights = made_manifests.small_weights(3)
    bodies: dict[str, tuple[BaseModel, Callable[[bytes], object]]] = {
        "plan body": (coordinator.plan(), plan),
        "trust body": (coordinator.trust(), trust),
        "manifest body": (made_manifests.make_manifest(3, weights, b"graph"), manifest),
        "report": (device.report(), reader(type(device.report()))),
        "enrolled": (Enrolled(state="active", device=device.id, certificate="x" * 800), reader(Enrolled)),
        "refused": (Refused(code="FA-5048", happened="It was revoked.", remedy="Ask."), reader(Refused)),
    }
    return [Target(name, (canonical(value),), check) for name, (value, check) in bodies.items()]


def _invitations(coordinator: Coordinator) -> Target:
    """Strings with their tokens; white space around one does not matter."""
    corpus = tuple(
        str(Invitation.new(address, coordinator.pin)).encode()
        for address in ("coordinator.example:8650", "192.0.2.1:8650", "[2001:db8::1]:443")
    )

    def check(data: bytes) -> object:
        return Invitation.parse(data.decode("utf-8", "surrogateescape"))

    def same(data: bytes) -> bytes:
        return data.decode("utf-8", "surrogateescape").strip().encode("utf-8", "surrogateescape")

    return Target("invitation", corpus, check, same=same)


def _certificates(coordinator: Coordinator, device: Device, other: Device) -> list[Target]:
    """As text, as DER, and as DER that the CA signs whatever it says."""
    good = (
        device.certificate(coordinator),
        other.certificate(coordinator),
        device.certificate(Coordinator.make()),
        coordinator.ca.public_bytes(Encoding.PEM),
    )
    certificates = [x509.load_pem_x509_certificate(data) for data in good]

    def check(data: bytes) -> object:
        certificate = read_device_certificate(data, coordinator.ca)
        return check_time(certificate.begins, certificate.ends, "certificate", datetime.now(UTC))

    def resigned(data: bytes) -> object:
        check(_armoured("CERTIFICATE", _signed(data, coordinator.ca_key)))
        raise OtherValueError

    ders = tuple(certificate.public_bytes(Encoding.DER) for certificate in certificates)
    bodies = tuple(certificate.tbs_certificate_bytes for certificate in certificates)
    return [
        Target("certificate", good, check),
        Target("certificate DER", ders, lambda data: check(_armoured("CERTIFICATE", data))),
        Target("certificate re-signed", bodies, resigned),
    ]


def _requests(device: Device, other: Device) -> list[Target]:
    """As text, as DER, and as DER that the device signs whatever it says."""
    good = tuple(make_request(one.name, one.identity) for one in (device, other))
    requests = [x509.load_pem_x509_csr(data) for data in good]

    def resigned(data: bytes) -> object:
        read_request(_armoured("CERTIFICATE REQUEST", _signed(data, device.identity)))
        raise OtherValueError

    ders = tuple(request.public_bytes(Encoding.DER) for request in requests)
    bodies = tuple(request.tbs_certrequest_bytes for request in requests)
    return [
        Target("request", good, read_request),
        Target("request DER", ders, lambda data: read_request(_armoured("CERTIFICATE REQUEST", data))),
        Target("request re-signed", bodies, resigned),
    ]


def _node_keys(device: Device, other: Device) -> list[Target]:
    """Another point on the curve is another key, which a device may have."""
    keys = [one.node.public_key() for one in (device, other)]
    info = PublicFormat.SubjectPublicKeyInfo

    def check(data: bytes) -> object:
        return _unless_other(read_node_key(data).public_bytes(Encoding.PEM, info), data)

    return [
        Target("node key", tuple(key.public_bytes(Encoding.PEM, info) for key in keys), check),
        Target(
            "node key DER",
            tuple(key.public_bytes(Encoding.DER, info) for key in keys),
            lambda data: check(_armoured("PUBLIC KEY", data)),
        ),
    ]


def _armoured(label: str, der: bytes) -> bytes:
    """PEM, spelled as it must be."""
    text = base64.b64encode(der).decode()
    lines = "".join(f"{text[at : at + 64]}\n" for at in range(0, len(text), 64))
    return f"-----BEGIN {label}-----\n{lines}-----END {label}-----\n".encode()


def _signed(body: bytes, key: Ed25519PrivateKey) -> bytes:
    """SEQUENCE { body, Ed25519, BIT STRING signature }, as certificates and requests are."""
    content = body + bytes.fromhex("300506032b6570" + "034100") + key.sign(body)
    size = len(content).to_bytes(4, "big").lstrip(b"\0")
    return b"\x30" + (size if len(content) < 128 else bytes([0x80 | len(size)]) + size) + content


def _check_keys(request: EnrolmentRequest | RenewalRequest) -> None:
    read_request(request.request.encode())
    node = read_node_key(request.node_key.encode())
    check_node_key(request.request.encode(), node, bytes.fromhex(request.node_proof))


def _enrolments(device: Device, other: Device) -> Target:
    """With a token that the first was given.

    A token is good for whoever bears it, so the parts to splice with are a device's that does not prove its
    node key.
    """
    token, stolen = bytes(range(16)), bytes(range(16, 32))
    unproven = other.enrolment(stolen).model_copy(update={"node_proof": device.enrolment(token).node_proof})
    corpus = (canonical(device.enrolment(token)), canonical(unproven))

    def check(data: bytes) -> object:
        request = read_canonical(EnrolmentRequest, data)
        if isinstance(request, str):
            raise ProtocolError("FA-3030", request, "")
        _check_keys(request)
        if not hmac.compare_digest(bytes.fromhex(request.token), token):
            raise ProtocolError("FA-5044", "The token is not known.", "")
        return request

    return Target("enrolment", corpus, check)


def _renewals(device: Device, other: Device) -> Target:
    corpus = (device.renewal("abc"), device.renewal("def"), other.renewal("abc"))

    def check(data: bytes) -> object:
        body = open_statement("renewal", data, [raw_public(device.identity)])
        request = read_canonical(RenewalRequest, body)
        if isinstance(request, str):
            raise ProtocolError("FA-3030", request, "")
        return _check_keys(request)

    return Target("renewal", corpus, check, STATEMENT_FIELDS)


def _unless_other(again: bytes, data: bytes) -> bytes:
    if again == data:
        raise OtherValueError
    return again
