"""`fedaudio client enroll`: keys made on the device, and a certificate for them.

Whatever stops it, the same command with the same string goes on: keys and request are on the disk before the
request is sent, and device.toml, which makes the folder a device's, is written last.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import httpx
import tomli_w

from common.errors import DeviceError
from common.files import is_there, make_folder, read_if_there, write_atomic
from common.protocol.enrolment import ENROL_PATH, Enrolled, EnrolmentRequest
from common.protocol.invitation import Invitation
from common.security.canonical import canonical, read_canonical
from common.security.certificates import make_request, prove_node_key
from common.security.keys import PROTECTION, KeyFolder, read_protection
from common.security.trust import check_time, open_trust
from common.settings import Settings, load_settings, parse_settings
from fl_client.connection import (
    TOLERANCE,
    Clock,
    RefusedError,
    UnreachableError,
    client_to,
    exchange,
    fetch_trust,
    learn_time,
    read_answer,
)
from fl_client.home import DeviceHome
from fl_client.identity import (
    IDENTITY,
    NEXT,
    Identity,
    keep_certificate,
    keep_trust,
    load_pair,
    make_pair,
    only_one,
    public_pem,
    read_certificate,
    read_trust,
)
from fl_client.policy import write_default_policy
from fl_client.settings import DeviceSettings

POLL_SECONDS = 2.0

REPLACED_KEY = "FA-5049"
"""What a coordinator says of keys that the device, or another, has given up."""


@dataclass(frozen=True)
class Enrolment:
    """How far it has come. `pending`: an operator of the coordinator has yet to approve the device."""

    state: Literal["active", "pending"]
    device: str


class Application(Settings):
    """An enrolment that is not over, in identity/enrolment.json; `request` holds the token until then.

    Args:
        keys: which of the device's keys it is for, as `make_pair` has it.
    """

    server: str
    pin: str
    name: str
    source: str | None
    request: EnrolmentRequest
    keys: Literal["", "-next"] = ""


def enrol(
    home: DeviceHome,
    invitation: Invitation | str,
    *,
    name: str,
    source: str | None = None,
    passphrase: bytes | None = None,
    wait_seconds: float = 0.0,
    insecure: bool = False,
) -> Enrolment:
    """Make `home` a device of the coordinator that issued `invitation`, or go on with doing so.

    A device whose certificate has expired keeps its identity and its id.

    Args:
        name: unique in the fleet.
        passphrase: protects the keys at rest; None leaves them to file mode 0600.
        wait_seconds: how long to wait for an operator's approval, if the coordinator wants one.
        insecure: without TLS, to a coordinator on this machine.

    Raises:
        ConfigError: FA-6003 the name is impossible, FA-6005..FA-6007 the keys, FA-6009 the string.
        DeviceError: FA-4004 the device is enrolled, FA-4009 `insecure` elsewhere, FA-4012..FA-4016 the
            connection or the clock, FA-4017 it belongs to another coordinator, FA-4018 the certificate is
            for other keys, FA-4026 its keys were made without a passphrase.
        ProtocolError: FA-3016..FA-3018, FA-3025..FA-3027 another coordinator answers, FA-3028 the clock.
        StorageError: FA-8001.
    """
    if isinstance(invitation, str):
        invitation = Invitation.parse(invitation)
    settings = {"name": name, "server": invitation.address, "coordinator": invitation.pin}
    parse_settings(DeviceSettings, settings | ({"source": source} if source else {}), "the command line")
    certified = _check_free(home, invitation.pin)
    with client_to(invitation.address, None, insecure=insecure) as anybody:
        statement = fetch_trust(anybody)
    trust = open_trust(statement, invitation.pin)
    check_time(trust.created - TOLERANCE, trust.expires, "coordinator's trust statement")
    with client_to(invitation.address, trust, insecure=insecure) as coordinator:
        learn_time(coordinator, Clock())
    for folder in (home.root, home.clips, home.identity):
        make_folder(folder, mode=0o700)
    with only_one(home, "enrolment"):
        keys = _open_keys(home, passphrase)
        keep_trust(home, statement, invitation.pin)
        if certified and is_there(home.config):
            Identity.load(home, keys.password)  # ends a rotation that was cut short
        _apply(home, keys, invitation, name, source)
    deadline = time.monotonic() + wait_seconds
    try:
        return _await_approval(home, keys.password, deadline, insecure=insecure)
    except RefusedError as refused:
        if refused.reason.code != REPLACED_KEY or not keys.has(IDENTITY + NEXT):
            raise
    # The answer to a rotation was lost, and then the certificate expired: the coordinator has the next keys.
    _apply(home, keys, invitation, name, source, NEXT)
    return _await_approval(home, keys.password, deadline, insecure=insecure)


def complete(home: DeviceHome, password: bytes | None, *, insecure: bool = False) -> Enrolment:
    """Ask once more for the enrolment that was begun in `home`.

    Args:
        password: of the keys, as `KeyFolder.unlock` derives it.

    Raises:
        DeviceError: FA-4010 none was begun; else as `enrol`.
    """
    application = read_application(home)
    trust = read_trust(home, application.pin)
    with client_to(application.server, trust, insecure=insecure) as client:
        answer = _ask(client, application.request)
        trust = keep_trust(home, fetch_trust(client), application.pin)
    if answer.state == "active":
        keep_certificate(home, answer, trust, load_pair(KeyFolder(home.identity, password), application.keys))
    write_default_policy(home.policy)
    _write_settings(home, application)
    if answer.state == "active":
        home.application.unlink(missing_ok=True)
    return Enrolment(answer.state, answer.device)


def read_application(home: DeviceHome) -> Application:
    """The enrolment that was begun in `home`.

    Raises:
        DeviceError: FA-4010, there is none.
        StorageError: FA-8001, it cannot be read.
    """
    application = read_canonical(Application, read_if_there(home.application) or b"")
    if isinstance(application, str):
        raise DeviceError(
            "FA-4010",
            "This device is not enrolled, and no enrolment was begun.",
            "Run `fedaudio client enroll` with a string from the coordinator's operator.",
        )
    return application


def _check_free(home: DeviceHome, pin: str) -> bool:
    """Return if `home` may be enrolled under the root `pin`: whether it has had a certificate before."""
    bound = None
    if is_there(home.config):
        bound = load_settings(DeviceSettings, home.config).coordinator
    elif is_there(home.application):
        bound = read_application(home).pin
    if bound not in (None, pin):
        raise DeviceError(
            "FA-4017",
            f"{home.root} belongs to another coordinator ({bound:.16}...).",
            "Name another folder with --home; each coordinator has a device of its own.",
        )
    if not is_there(home.certificate):
        return False
    ends = read_certificate(home).ends
    if is_there(home.config) and not is_there(home.application) and datetime.now(UTC) < ends:
        raise DeviceError(
            "FA-4004",
            f"{home.root} is an enrolled device already; its certificate is good until {ends:%Y-%m-%d}.",
            "Use it, or name another folder with --home.",
        )
    return True


def _open_keys(home: DeviceHome, passphrase: bytes | None) -> KeyFolder:
    """The keys in `home`; made anew where nobody knows them and they are not protected as is asked."""
    if not is_there(home.identity / PROTECTION):
        return KeyFolder.create(home.identity, passphrase)
    if passphrase is None or read_protection(home.identity).by == "passphrase":
        return KeyFolder.unlock(home.identity, passphrase)
    if is_there(home.certificate) or is_there(home.config):
        raise DeviceError(
            "FA-4026",
            f"The keys in {home.identity} were made without a passphrase, and the coordinator knows them.",
            "Leave the passphrase out; or enrol with it in another folder (--home).",
        )
    # An enrolment that failed has left plain keys, which nobody certified.
    for key in home.identity.glob("*.key"):
        key.unlink()
    return KeyFolder.create(home.identity, passphrase)


def _apply(
    home: DeviceHome,
    keys: KeyFolder,
    invitation: Invitation,
    name: str,
    source: str | None,
    suffix: Literal["", "-next"] = "",
) -> None:
    """Put the application on the disk, with keys for it."""
    signing, node = make_pair(keys, suffix)
    request = make_request(name, signing)
    application = Application(
        server=invitation.address,
        pin=invitation.pin,
        name=name,
        source=source,
        request=EnrolmentRequest(
            token=invitation.token.hex(),
            request=request.decode(),
            node_key=public_pem(node),
            node_proof=prove_node_key(request, node).hex(),
        ),
        keys=suffix,
    )
    write_atomic(home.application, canonical(application), mode=0o600)


def _await_approval(
    home: DeviceHome, password: bytes | None, deadline: float, *, insecure: bool
) -> Enrolment:
    """`complete` until it is active or `deadline` (monotonic seconds), also while nobody answers."""
    while True:
        try:
            enrolment = complete(home, password, insecure=insecure)
            if enrolment.state == "active" or time.monotonic() >= deadline:
                return enrolment
        except UnreachableError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(min(POLL_SECONDS, max(0.0, deadline - time.monotonic())))


def _ask(client: httpx.Client, request: EnrolmentRequest) -> Enrolled:
    return read_answer(client, ENROL_PATH, Enrolled, exchange(client, "POST", ENROL_PATH, canonical(request)))


def _write_settings(home: DeviceHome, application: Application) -> None:
    """device.toml as enrolled; what its owner has set in it stays."""
    document: dict[str, object] = {}
    if is_there(home.config):
        kept = load_settings(DeviceSettings, home.config)
        document = kept.model_dump(exclude_unset=True, exclude_none=True)
    document |= {"name": application.name, "server": application.server, "coordinator": application.pin}
    if application.source is not None:
        document["source"] = application.source
    write_atomic(home.config, tomli_w.dumps(document).encode(), mode=0o600)
