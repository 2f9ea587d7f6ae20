"""Keeping a certificate good, and changing the keys it is for. A lost answer costs another try, no more."""

from __future__ import annotations

from datetime import UTC, datetime

import httpx

from common.errors import DeviceError
from common.protocol.enrolment import RENEW_PATH, Enrolled, RenewalRequest
from common.security.canonical import canonical
from common.security.certificates import make_request, prove_node_key
from common.security.keys import KeyFolder
from common.security.statement import sign_statement
from fl_client.connection import Clock, RefusedError, exchange, fetch_trust, learn_time, read_answer
from fl_client.home import DeviceHome
from fl_client.identity import (
    IDENTITY,
    NEXT,
    Identity,
    KeyPair,
    keep_certificate,
    keep_trust,
    load_pair,
    make_pair,
    only_one,
    public_pem,
)

REPLACED = "FA-5051"
"""What a coordinator says of a certificate that is not the newest it has issued to the device."""


def is_due(home: DeviceHome, identity: Identity, now: datetime | None = None) -> bool:
    """Whether two thirds of the certificate's life are over, or a rotation was begun and is not."""
    return (now or datetime.now(UTC)) >= identity.certificate.renew_at or _is_rotating(home)


def renew(
    home: DeviceHome,
    password: bytes | None,
    client: httpx.Client,
    *,
    rotate: bool = False,
    if_due: bool = False,
    now: datetime | None = None,
) -> Identity:
    """Get a new certificate, and the newest trust statement with it.

    Args:
        password: of the keys, as `KeyFolder.unlock` derives it.
        client: for the coordinator, from `make_client`.
        rotate: for new keys. They stay beside the old ones until the certificate for them is on the disk; a
            rotation that was cut short is ended by the next renewal.
        if_due: do nothing unless `is_due`, which another process may just have seen to.

    Raises:
        DeviceError: FA-4012..FA-4016 the connection, FA-4018 the certificate is for other keys, FA-4019 the
            one in use has expired by both clocks.
        ConfigError, ProtocolError: as `Identity.load` and `keep_trust`.
        StorageError: FA-8001.
    """
    with only_one(home, "renewal"):
        identity = Identity.load(home, password)
        if if_due and not is_due(home, identity, now):
            return identity
        if (now or datetime.now(UTC)) > identity.certificate.ends:
            learn_time(client, Clock())  # it may be the clock that is wrong, and then it is named
            raise expired(identity.certificate.ends)
        keys = KeyFolder(home.identity, password)
        if not (rotate or _is_rotating(home)):
            return _renew(home, identity, client, keys, load_pair(keys))
        following = make_pair(keys, NEXT)
        try:
            return _renew(home, identity, client, keys, following)
        except RefusedError as refused:
            if refused.reason.code != REPLACED:
                raise
        # The answer to an earlier renewal was lost. It is had by asking for it again, with the keys of then.
        identity = _renew(home, identity, client, keys, load_pair(keys))
        return _renew(home, identity, client, keys, following)


def _renew(
    home: DeviceHome, identity: Identity, client: httpx.Client, keys: KeyFolder, wanted: KeyPair
) -> Identity:
    """A certificate for the keys in `wanted`."""
    trust = keep_trust(home, fetch_trust(client), identity.coordinator)
    request = make_request(identity.name, wanted[0])
    wish = RenewalRequest(
        device=identity.device,
        serial=identity.certificate.serial,
        request=request.decode(),
        node_key=public_pem(wanted[1]),
        node_proof=prove_node_key(request, wanted[1]).hex(),
    )
    signed = sign_statement("renewal", canonical(wish), identity.signing_key)
    answer = read_answer(client, RENEW_PATH, Enrolled, exchange(client, "POST", RENEW_PATH, signed))
    keep_certificate(home, answer, trust, wanted)
    return Identity.load(home, keys.password)


def expired(ends: datetime) -> DeviceError:
    """The error of a device that was away for too long."""
    return DeviceError(
        "FA-4019",
        f"The device's certificate has expired on {ends:%Y-%m-%d %H:%M} UTC.",
        "Enrol it again with a new string from the coordinator's operator; it keeps its id. Check its clock.",
    )


def _is_rotating(home: DeviceHome) -> bool:
    return KeyFolder(home.identity, None).has(IDENTITY + NEXT)
