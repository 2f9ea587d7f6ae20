"""What can be said of a coordinator's keys without opening them."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

from common.security.keys import KeyFolder, read_protection
from common.security.statement import key_id
from common.security.trust import fingerprint
from fl_server.home import CoordinatorHome
from fl_server.keyring import load_certificate, load_trust


class KeyStatus(TypedDict):
    """One key. `id` is the fingerprint of its certificate, or the id that signatures and envelopes name."""

    name: str
    here: bool
    id: str
    expires: str | None


class KeysStatus(TypedDict):
    """All of them."""

    coordinator: str
    protection: str
    serial: int
    created: str
    expires: str
    keys: list[KeyStatus]


def describe_keys(home: CoordinatorHome) -> KeysStatus:
    """The keys of the coordinator in `home`.

    Raises:
        ConfigError: FA-6005, something is missing.
        ProtocolError: FA-3016..FA-3018, FA-3025, FA-3026, the trust statement is not the root's.
    """
    trust, _, coordinator = load_trust(home)
    folder = KeyFolder(home.keys, None)

    def certified(name: str, path: Path) -> KeyStatus:
        certificate = load_certificate(path)
        ends = certificate.not_valid_after_utc.isoformat(timespec="seconds")
        return KeyStatus(name=name, here=folder.has(name), id=fingerprint(certificate), expires=ends)

    def plain(name: str, identity: bytes) -> KeyStatus:
        return KeyStatus(name=name, here=folder.has(name), id=identity.hex(), expires=None)

    return KeysStatus(
        coordinator=coordinator,
        protection=read_protection(home.keys).by,
        serial=trust.serial,
        created=trust.created.isoformat(timespec="seconds"),
        expires=trust.expires.isoformat(timespec="seconds"),
        keys=[
            certified("root", home.root_certificate),
            certified("device-ca", home.device_ca_certificate),
            certified("tls", home.certificate),
            plain("plan", key_id(trust.plan_keys()[0])),
            plain("release", key_id(trust.release_keys()[0])),
            plain("envelope", trust.envelope[0].sealing_key().id),
        ],
    )
