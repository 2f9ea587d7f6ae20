"""The keys of a coordinator in memory, and the trust statement that tells devices which they are."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from common.errors import ConfigError, CoordinatorError
from common.files import locked, rename
from common.security.keys import KeyFolder, read_protection
from common.security.passphrase import ask_passphrase, find_passphrase
from common.security.sealing import OpeningKey, Suite
from common.security.statement import raw_public
from common.security.trust import EnvelopeKey, Trust, fingerprint, open_trust
from fl_server.home import CoordinatorHome

log = logging.getLogger(__name__)

ENVELOPE, ENVELOPE_MLKEM = "envelope", "envelope-mlkem"
"""Names of the key answers are sealed to, and of the other half of it in a hybrid."""

FORMER_TRUST = "trust-*.fas"
"""Trust statements from before a rotation of the release key: what it has signed is checked with them."""

REMINDER = timedelta(days=60)
"""How long before the end of a trust statement the coordinator begins to speak of it."""


@dataclass(frozen=True)
class ServerKeys:
    """What the coordinator's process signs and opens with. It never leaves that process.

    Args:
        opening: opens answers. A round that is under way at a rotation holds the one before by itself.
        release: None when the key lives on another machine.
        trust_data: `trust` as signed, for devices.
        coordinator: fingerprint of the root.
    """

    plan: Ed25519PrivateKey = field(repr=False)
    opening: OpeningKey = field(repr=False)
    release: Ed25519PrivateKey | None = field(repr=False)
    trust: Trust
    trust_data: bytes = field(repr=False)
    coordinator: str

    @classmethod
    def load(cls, home: CoordinatorHome, password: bytes | None, now: datetime | None = None) -> ServerKeys:
        """The keys of the coordinator in `home`.

        Args:
            password: of the key folder, as `unlock` returns it.

        Raises:
            ConfigError: FA-6005..FA-6007, a key cannot be used.
            CoordinatorError: FA-5042, keys and trust statement do not belong together.
            ProtocolError: FA-3016..FA-3018, FA-3025, FA-3026, the trust statement is not the root's.
        """
        finish_rotation(home)
        trust, data, coordinator = load_trust(home)
        folder = KeyFolder(home.keys, password)
        plan = folder.load("plan", Ed25519PrivateKey)
        release = folder.load("release", Ed25519PrivateKey) if folder.has("release") else None
        if raw_public(plan).hex() != trust.plan[0]:
            raise _strange(home, "plan")
        if release is not None and raw_public(release).hex() != trust.release[0]:
            raise _strange(home, "release")
        opening = load_envelope(folder, trust.envelope[0].suite)
        if envelope_key(opening) != trust.envelope[0]:
            raise _strange(home, ENVELOPE)
        if trust.expires - REMINDER < (now or datetime.now(UTC)):
            log.warning("devices trust these keys until %s; run: fedaudio server keys rotate", trust.expires)
        return cls(plan, opening, release, trust, data, coordinator)


def unlock(home: CoordinatorHome, passphrase_file: Path | None, *, ask: bool) -> bytes | None:
    """The password of the key folder; None where the files' mode protects the keys.

    Args:
        passphrase_file: else the systemd credential is used; with `ask` the keyboard comes last.

    Raises:
        ConfigError: FA-6005 there are no keys, FA-6006 a passphrase is needed, FA-6008 it cannot be read.
    """
    if read_protection(home.keys).by == "file-mode":
        return None
    passphrase = find_passphrase(passphrase_file)
    if passphrase is None and ask:
        passphrase = ask_passphrase("Passphrase of the coordinator's keys")
    return KeyFolder.unlock(home.keys, passphrase).password


def load_certificate(path: Path) -> x509.Certificate:
    """A certificate of the coordinator.

    Raises:
        ConfigError: FA-6005.
    """
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(
            "FA-6005", f"{path} is missing or no certificate.", "Restore keys/ from a backup."
        ) from error


def load_trust(home: CoordinatorHome) -> tuple[Trust, bytes, str]:
    """The trust statement, the same as signed, and the fingerprint of the root it is under.

    Raises:
        ConfigError: FA-6005, there is none.
        ProtocolError: FA-3016..FA-3018, FA-3025, FA-3026, the root in the folder did not sign it.
    """
    pin = fingerprint(load_certificate(home.root_certificate))
    try:
        data = home.trust.read_bytes()
    except OSError as error:
        raise ConfigError(
            "FA-6005", f"{home.trust} could not be read: {error.strerror}.", "Restore keys/ from a backup."
        ) from error
    return open_trust(data, pin), data, pin


def certified_names(home: CoordinatorHome) -> list[str]:
    """Host names and IP addresses that the TLS certificate in use is valid for.

    Raises:
        ConfigError: FA-6005.
    """
    names = load_certificate(home.certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return [str(name.value) for name in names.value]


def finish_rotation(home: CoordinatorHome) -> None:
    """Put new keys in place that were gathered in `home.next_keys`, if somebody was cut off at it.

    Raises:
        StorageError: FA-8001.
    """
    with locked(home.rotation_lock):
        move_next_keys(home)


def move_next_keys(home: CoordinatorHome) -> None:
    """As `finish_rotation`, for whoever holds the lock.

    The trust statement is the last to be written there, and makes the others official. It is also the last to
    be moved, so that until then this can be begun again.
    """
    trust = home.next_keys / home.trust.name
    if trust.exists():
        for path in home.next_keys.iterdir():
            if path != trust:
                rename(path, home.keys / path.name)
        pin = fingerprint(load_certificate(home.root_certificate))
        if open_trust(trust.read_bytes(), pin).envelope[0].suite is not Suite.HYBRID:
            # Half of a key before: what was sealed to that is not to be opened any more.
            (home.keys / f"{ENVELOPE_MLKEM}.key").unlink(missing_ok=True)
        rename(trust, home.trust)
        home.next_keys.rmdir()


def envelope_key(key: OpeningKey) -> EnvelopeKey:
    """The public half, as a trust statement holds it."""
    return EnvelopeKey(suite=key.public.suite, key=key.public.raw.hex())


def load_envelope(folder: KeyFolder, suite: Suite) -> OpeningKey:
    """The private key that answers are sealed to, of both halves in the hybrid.

    Raises:
        ConfigError: FA-6005..FA-6007.
    """
    mlkem = folder.load(ENVELOPE_MLKEM, MLKEM768PrivateKey) if suite is Suite.HYBRID else None
    return OpeningKey(folder.load(ENVELOPE, X25519PrivateKey), mlkem)


def save_envelope(folder: KeyFolder, key: OpeningKey) -> None:
    """Write both halves of `key`.

    Raises:
        StorageError: FA-8001.
    """
    folder.save(ENVELOPE, key.x25519)
    if key.mlkem is not None:
        folder.save(ENVELOPE_MLKEM, key.mlkem)


def release_keys_ever(home: CoordinatorHome) -> list[bytes]:
    """Raw keys that may sign releases, or could at any time: as all statements say that the root has signed.

    Raises:
        ConfigError: FA-6005, the statement in use is missing.
        ProtocolError: FA-3016..FA-3018, FA-3025, FA-3026, the root in the folder did not sign one.
    """
    trust, _, pin = load_trust(home)
    former = [open_trust(path.read_bytes(), pin) for path in sorted(home.keys.glob(FORMER_TRUST))]
    return list(dict.fromkeys(key for statement in (trust, *former) for key in statement.release_keys()))


def _strange(home: CoordinatorHome, name: str) -> CoordinatorError:
    return CoordinatorError(
        "FA-5042",
        f"The {name} key in {home.keys} is not the one that the trust statement names.",
        "Restore the whole folder from one backup; or give devices new keys: fedaudio server keys rotate",
    )
