"""Who is a device: enrolment, renewal, rotation, approval, revocation. Knows no HTTP.

Every change is one transaction, with its line of evidence in it. The same request once more changes nothing
and is answered as before, so a device whose answer was lost just asks again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from common.errors import CoordinatorError, ProtocolError
from common.protocol.enrolment import LARGEST_REQUEST, Enrolled, EnrolmentRequest, RenewalRequest
from common.security.canonical import read_canonical
from common.security.certificates import (
    check_node_key,
    device_id,
    node_digest,
    read_node_key,
    read_request,
)
from common.security.statement import SIGNATURE_BYTES, check_detached
from fl_server import evidence
from fl_server.authority import DeviceAuthority
from fl_server.registry import (
    Device,
    DeviceKey,
    Registry,
    TokenUse,
    expired,
    pending,
    revoked,
    unknown,
    utc,
)
from fl_server.settings import DeviceRules
from fl_server.tokens import token_digest, token_name, use_token

YOUNGEST = timedelta(hours=1)
"""Age from which a certificate is renewed for the keys that it has."""

NEW_KEYS_A_DAY = 20
"""Keys a device may take in 24 hours; a rotation takes two. Each costs a line of evidence."""

NOTED = frozenset({"FA-5046", "FA-5048", "FA-5049", "FA-5051"})
"""Refusals that tell of stolen tokens or keys, and so are evidence."""


@dataclass
class _About:
    """Whom a request is about, as far as that is proven: a device by its id, a token by its digest."""

    device: str | None = None
    token: str | None = None


@dataclass(frozen=True)
class _Keys:
    """What a device asks a certificate for; it has proven that it holds both keys."""

    name: str
    identity: bytes = field(repr=False)
    node_key: str = field(repr=False)
    node: str

    @property
    def identity_hex(self) -> str:
        return self.identity.hex()


def enrol(
    registry: Registry,
    authority: DeviceAuthority,
    rules: DeviceRules,
    request: EnrolmentRequest,
    now: datetime | None = None,
) -> Enrolled:
    """Make the sender of `request` a device; pending, where the rules ask for an operator's approval.

    A device whose certificate has expired enrols again with its identity and a new token, and keeps its id.

    Raises:
        ProtocolError: FA-3030, the request or a proof of possession is wrong.
        CoordinatorError: FA-5044 the token is unknown, FA-5045 expired, FA-5046 used up; FA-5047 the name is
            taken, FA-5048 the device was revoked, FA-5049 a key is or was another's.
    """
    now = now or datetime.now(UTC)
    keys = _read_keys(request.request, request.node_key, request.node_proof)
    digest = token_digest(bytes.fromhex(request.token))
    with _noting(registry, now) as about:
        with registry.reading() as session:
            if (answer := _answer_of_before(session, keys, digest, about)) is not None:
                return answer
        with registry.session() as session:
            if (answer := _answer_of_before(session, keys, digest, about)) is not None:
                return answer
            about.token = digest
            device = _enter(session, keys, digest, rules, now)
            if device.state == "active":
                _certify(device, keys, authority, rules, now)
            evidence.append(
                session,
                "enrolled",
                device=device.id,
                name=device.name,
                state=device.state,
                identity=device.identity,
                node=keys.node,
                token=token_name(digest),
            )
    return _answer(device)


def renew(
    registry: Registry,
    authority: DeviceAuthority,
    rules: DeviceRules,
    statement: bytes,
    now: datetime | None = None,
) -> Enrolled:
    """A new certificate for an active device, for the keys it has or for new ones (a rotation).

    Args:
        statement: a `RenewalRequest`, signed with the identity key of the certificate that it names.

    Raises:
        ProtocolError: FA-3030 the request or a proof of possession is wrong, FA-3016..FA-3018 its signature.
        CoordinatorError: FA-5050 no such device, FA-5048 revoked, FA-5053 pending, FA-5051 the certificate
            named is not the current one, FA-5052 it has expired, FA-5049 a new key is or was another's,
            FA-5058 the certificate is new and for these keys, FA-5059 too many new keys today.
    """
    now = now or datetime.now(UTC)
    signature, body = statement[:SIGNATURE_BYTES], statement[SIGNATURE_BYTES:]
    # What it says is believed only once its signature has been checked; for that, the device must be known.
    request = read_canonical(RenewalRequest, body) if len(statement) <= LARGEST_REQUEST else "it is too long"
    if isinstance(request, str):
        raise _malformed(request)
    with _noting(registry, now) as about:
        with registry.reading() as session:
            device, signer = _signer_of(session, request, signature, body, about)
            keys = _read_keys(request.request, request.node_key, request.node_proof)
            if _is_repeated(device, request, keys, signer):
                return _answer(device)
        with registry.session() as session:
            device, signer = _signer_of(session, request, signature, body, about)
            if _is_repeated(device, request, keys, signer):
                return _answer(device)
            _renew(session, authority, rules, device, request.serial, signer, keys, now)
    return _answer(device)


def approve(
    registry: Registry,
    authority: DeviceAuthority,
    rules: DeviceRules,
    device: str,
    now: datetime | None = None,
) -> Device:
    """Let a pending device in. Approving an active one changes nothing.

    Args:
        device: its id.

    Raises:
        CoordinatorError: FA-5050 no such device, FA-5048 it was revoked.
    """
    with registry.session() as session:
        row = session.get(Device, device)
        if row is None:
            raise unknown()
        if row.state == "revoked":
            raise revoked(row)
        if row.state == "pending":
            row.state = "active"
            keys = _Keys(
                row.name,
                bytes.fromhex(row.identity),
                row.node_key,
                node_digest(read_node_key(row.node_key.encode())),
            )
            _certify(row, keys, authority, rules, now or datetime.now(UTC))
            evidence.append(session, "approved", device=row.id, name=row.name)
    return row


def revoke(registry: Registry, device: str, reason: str, now: datetime | None = None) -> Device:
    """Put a device out for good. Revoking it again changes nothing.

    Args:
        device: its id.

    Raises:
        CoordinatorError: FA-5050, no such device.
    """
    with registry.session() as session:
        row = session.get(Device, device)
        if row is None:
            raise unknown()
        if row.state != "revoked":
            row.state, row.revoked, row.reason = "revoked", now or datetime.now(UTC), reason
            evidence.append(session, "revoked", device=row.id, name=row.name, reason=reason)
    return row


def _answer_of_before(session: Session, keys: _Keys, digest: str, about: _About) -> Enrolled | None:
    """The answer to an enrolment that is sent once more.

    Raises:
        CoordinatorError: FA-5048, the device was revoked; whatever its token is.
    """
    device = session.scalar(select(Device).where(Device.identity == keys.identity_hex))
    if device is None:
        return None
    about.device = device.id
    if device.state == "revoked":
        raise revoked(device)
    return _answer(device) if _is_same_request(session, device, keys, digest) else None


def _renew(
    session: Session,
    authority: DeviceAuthority,
    rules: DeviceRules,
    device: Device,
    serial: str,
    signer: str,
    keys: _Keys,
    now: datetime,
) -> None:
    current = authority.read(device.certificate)
    if signer != device.identity or serial != current.serial:
        raise CoordinatorError(
            "FA-5051",
            f"The device {device.name} ({device.id[:8]}) names a certificate that has been replaced.",
            "If it was restored from a backup, enrol it again; else its old keys may have been stolen.",
        )
    if utc(current.ends) < now:
        raise expired(device)
    new = _take_keys(session, device, keys, now)
    if not new and now - current.begins < YOUNGEST:
        raise CoordinatorError(
            "FA-5058",
            f"The certificate of the device {device.name} ({device.id[:8]}) is newer than an hour.",
            "Use it; it is renewed at two thirds of its life.",
        )
    if new:
        _check_new_keys(session, device, now)
    device.previous_serial, device.previous_identity = current.serial, signer
    _certify(device, keys, authority, rules, now)
    kind: evidence.Kind = "rotated" if new else "renewed"
    evidence.append(
        session, kind, device=device.id, name=device.name, identity=device.identity, node=keys.node
    )


def _check_new_keys(session: Session, device: Device, now: datetime) -> None:
    recent = select(func.count()).where(
        DeviceKey.device == device.id, DeviceKey.added > now - timedelta(days=1)
    )
    if (session.scalar(recent) or 0) > NEW_KEYS_A_DAY:
        raise CoordinatorError(
            "FA-5059",
            f"The device {device.name} ({device.id[:8]}) has had {NEW_KEYS_A_DAY} new keys within a day.",
            "Wait a day; if nobody changed its keys on purpose, revoke it.",
        )


@contextmanager
def _noting(registry: Registry, now: datetime) -> Iterator[_About]:
    """Makes a refusal evidence that tells of stolen tokens or keys, after what it stopped was undone."""
    about = _About()
    try:
        yield about
    except CoordinatorError as error:
        subject = about.device or about.token
        if error.code in NOTED and subject is not None:
            token = {"token": token_name(about.token)} if about.token else {}
            evidence.note_refusal(registry, subject, error, now, device=about.device, **token)
        raise


def _read_keys(request: str, node_key: str, node_proof: str) -> _Keys:
    name, identity = read_request(request.encode())
    key = read_node_key(node_key.encode())
    check_node_key(request.encode(), key, bytes.fromhex(node_proof))
    return _Keys(name, identity, node_key, node_digest(key))


def _is_same_request(session: Session, device: Device, keys: _Keys, digest: str) -> bool:
    used = session.get(TokenUse, (digest, keys.identity_hex)) is not None
    return used and (device.name, device.node_key) == (keys.name, keys.node_key)


def _enter(session: Session, keys: _Keys, token: str, rules: DeviceRules, now: datetime) -> Device:
    """The row of a new device, or that of one that enrols again."""
    use_token(session, token, keys.identity_hex, now)
    device = session.scalar(select(Device).where(Device.identity == keys.identity_hex))
    if device is None:
        device = Device(
            id=device_id(keys.identity),
            name=keys.name,
            state="pending" if rules.approval else "active",
            identity="",
            node_key="",
            token=token,
            enrolled=now,
        )
    _take_keys(session, device, keys, now)
    _check_name(session, device.id, keys.name)
    device.name, device.token = keys.name, token
    session.add(device)
    return device


def _check_name(session: Session, device: str, name: str) -> None:
    taken = select(Device.id).where(Device.name == name, Device.state != "revoked", Device.id != device)
    if session.scalar(taken.limit(1)) is not None:
        raise CoordinatorError(
            "FA-5047", f"There is a device called {name} already.", "Give this one another name."
        )


def _take_keys(session: Session, device: Device, keys: _Keys, now: datetime) -> bool:
    """Give `device` its keys, and return whether one of them is new to it.

    Raises:
        CoordinatorError: FA-5049, one is or was another device's, or this one has given it up.
    """
    new = [keys.identity_hex] if keys.identity_hex != device.identity else []
    if keys.node_key != device.node_key:
        new.append(keys.node)
    for key in new:
        if session.get(DeviceKey, key) is not None:
            raise CoordinatorError(
                "FA-5049",
                "A key of this device belongs to another device, or has been replaced.",
                "Enrol with new keys, in another folder; keys must not be copied from device to device.",
            )
        session.add(DeviceKey(key=key, device=device.id, added=now))
    device.identity, device.node_key = keys.identity_hex, keys.node_key
    return bool(new)


def _certify(
    device: Device, keys: _Keys, authority: DeviceAuthority, rules: DeviceRules, now: datetime
) -> None:
    device.certificate = authority.issue(
        device=device.id,
        name=device.name,
        identity=keys.identity,
        node=keys.node,
        days=rules.certificate_days,
        now=now,
    )
    device.expires = authority.read(device.certificate).ends


def _signer_of(
    session: Session, request: RenewalRequest, signature: bytes, body: bytes, about: _About
) -> tuple[Device, str]:
    """The device that asks, and which of its identities signed. A stranger learns nothing of the device."""
    device = session.get(Device, request.device)
    if device is None:
        raise unknown()
    known = dict.fromkeys((device.identity, device.previous_identity or device.identity))
    signer = check_detached("renewal", signature, body, [bytes.fromhex(key) for key in known])
    about.device = device.id
    if device.state == "revoked":
        raise revoked(device)
    if device.state != "active":
        raise pending(device)
    return device, signer.hex()


def _is_repeated(device: Device, request: RenewalRequest, keys: _Keys, signer: str) -> bool:
    """Whether this is the renewal that gave the device its certificate, once more: the answer was lost."""
    return (
        (request.serial, signer) == (device.previous_serial, device.previous_identity)
        and keys.identity_hex == device.identity
        and keys.node_key == device.node_key
    )


def _answer(device: Device) -> Enrolled:
    state = "active" if device.state == "active" else "pending"
    return Enrolled(state=state, device=device.id, certificate=device.certificate)


def _malformed(why: str) -> ProtocolError:
    return ProtocolError(
        "FA-3030", f"The request for a certificate is malformed: {why}.", "Update the device."
    )
