"""`fedaudio server keys rotate`: new keys, and a new trust statement that tells devices so.

What each rotation means for what was made under the old key:

tls        Devices pin the root, so they notice nothing.
device-ca  Certificates of the old CA are good until they are renewed; new ones come from the new CA.
plan       The old key may not sign any more.
release    The old key stays trusted, for older releases must still verify; the new one signs. If the old one
           was stolen, it is not trusted any more, and the versions that devices are given are signed anew.
envelope   The old private key is gone. A round that is running holds it in memory, and so that its answers
           can still be sealed, devices go on trusting the public half.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.errors import CoordinatorError
from common.files import locked, make_folder, write_atomic
from common.security.canonical import canonical
from common.security.certificates import issue_device_ca
from common.security.keys import KeyFolder
from common.security.sealing import OpeningKey
from common.security.statement import raw_public, sign_statement
from common.security.trust import Trust
from fl_server import evidence
from fl_server.authority import load_authorities
from fl_server.home import CoordinatorHome
from fl_server.initialise import SUITES, TRUST_LIFETIME, certify_tls, pem
from fl_server.keyring import (
    FORMER_TRUST,
    certified_names,
    envelope_key,
    load_certificate,
    load_trust,
    move_next_keys,
    release_keys_ever,
    save_envelope,
)
from fl_server.registry import Registry
from fl_server.rollout import sign_anew
from fl_server.settings import DeviceRules
from fl_server.witnesses import check_releases

_LARGEST_COUNT = 8
"""Keys of a kind that a trust statement holds; the oldest falls out."""

_LARGEST_AUTHORITIES = 4
"""Device CAs whose certificates are good: this one, and those before it."""


def rotate(
    home: CoordinatorHome,
    registry: Registry,
    rules: DeviceRules,
    password: bytes | None,
    names: Sequence[str],
    now: datetime | None = None,
    *,
    new_release_key: bool = False,
    compromised: bool = False,
) -> Trust:
    """Replace keys and return the new trust statement.

    Everything is gathered in one folder first and then moved, so whenever this is cut off, keys, certificates
    and trust statement belong together, or will after `keyring.finish_rotation`.

    Args:
        names: any of tls, device-ca, plan, release and envelope.
        password: of the key folder, as `keyring.unlock` returns it.
        new_release_key: make one here, though the one in use is on another machine.
        compromised: trust no release key before; sign what devices are given anew. If that is cut off before
            the signing, it is to be done once more.

    Raises:
        CoordinatorError: FA-5041 the root key is on another machine, FA-5043 the release key is, FA-5055 what
            is to be signed anew is not what was released.
        ConfigError: FA-6005..FA-6007, a key cannot be used.
        StorageError: FA-8001.
    """
    with locked(home.rotation_lock):
        move_next_keys(home)
        shutil.rmtree(home.next_keys, ignore_errors=True)
        root_key = _load_root_key(home, password)
        if "release" in names and not (new_release_key or KeyFolder(home.keys, password).has("release")):
            raise _release_key_elsewhere(home)
        if compromised:
            check_releases(registry, home.releases, release_keys_ever(home))
        trust = _gather(home, rules, password, root_key, names, now or datetime.now(UTC), compromised)
        facts: dict[str, evidence.Fact] = {"release": trust.release[0]} if "release" in names else {}
        # Before the fact: better a line about keys that were never used than keys without a line.
        with registry.session() as session:
            evidence.append(
                session,
                "keys-rotated",
                keys=list(names),
                serial=trust.serial,
                compromised=compromised,
                **facts,
            )
        write_atomic(home.next_keys / home.trust.name, sign_statement("trust", canonical(trust), root_key))
        move_next_keys(home)
        if compromised:
            sign_anew(home, KeyFolder(home.keys, password).load("release", Ed25519PrivateKey))
    return trust


def _release_key_elsewhere(home: CoordinatorHome) -> CoordinatorError:
    return CoordinatorError(
        "FA-5043",
        f"The release key is not in {home.keys}: a new one would be made here, where it was not to be.",
        "Give --new-release-key, and move it away again; or leave `release` out.",
    )


def _load_root_key(home: CoordinatorHome, password: bytes | None) -> Ed25519PrivateKey:
    folder = KeyFolder(home.keys, password)
    if not folder.has("root"):
        raise CoordinatorError(
            "FA-5041",
            f"The root key is not in {home.keys}, and it must sign the change.",
            f"Bring it back as {folder.path('root').name} for as long as this takes.",
        )
    return folder.load("root", Ed25519PrivateKey)


def _gather(
    home: CoordinatorHome,
    rules: DeviceRules,
    password: bytes | None,
    root_key: Ed25519PrivateKey,
    names: Sequence[str],
    now: datetime,
    compromised: bool,
) -> Trust:
    """Write the new keys and certificates beside the old ones; return the trust statement to be."""
    (old, statement, _), root = load_trust(home), load_certificate(home.root_certificate)
    following = KeyFolder(make_folder(home.next_keys, mode=0o700), password)
    change: dict[str, object] = {}
    if "tls" in names:
        certificate, key = certify_tls(root, root_key, certified_names(home), now)
        following.save("tls", key)
        write_atomic(home.next_keys / home.certificate.name, pem(certificate))
    if "device-ca" in names:
        authorities = load_authorities(home)[: _LARGEST_AUTHORITIES - 1]
        ca, ca_key = issue_device_ca(root, root_key, now)
        following.save("device-ca", ca_key)
        write_atomic(home.next_keys / home.device_ca_certificate.name, pem(ca))
        previous = home.next_keys / home.previous_device_ca_certificate.name
        write_atomic(previous, b"".join(map(pem, authorities)))
        change["device_ca"] = b"".join(map(pem, (ca, *authorities))).decode()
    if "plan" in names:
        change["plan"] = (_new_signing_key(following, "plan"),)
    if "release" in names:
        former = () if compromised else old.release
        change["release"] = (_new_signing_key(following, "release"), *former)[:_LARGEST_COUNT]
        write_atomic(home.next_keys / FORMER_TRUST.replace("*", f"{old.serial:06d}"), statement)
    if "envelope" in names:
        opening = OpeningKey.generate(SUITES[rules.envelope])
        save_envelope(following, opening)
        change["envelope"] = (envelope_key(opening), old.envelope[0])
    return old.model_copy(
        update={"serial": old.serial + 1, "created": now, "expires": now + TRUST_LIFETIME} | change
    )


def _new_signing_key(folder: KeyFolder, name: str) -> str:
    key = Ed25519PrivateKey.generate()
    folder.save(name, key)
    return raw_public(key).hex()
