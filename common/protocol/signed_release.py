"""Whether a release is what a coordinator released: its signature, whose it is, and its time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.errors import ProtocolError
from common.protocol.release import (
    FILES,
    MANIFEST,
    SIGNATURE,
    Manifest,
    Release,
    open_release,
    parse_manifest,
)
from common.security.statement import check_detached, sign_detached
from common.security.trust import Trust, fingerprint
from common.version import VERSION

CLOCK_TOLERANCE = timedelta(days=1)
"""A release from further ahead than this is from the future: one of two clocks is wrong."""


def sign_manifest(manifest: bytes, key: Ed25519PrivateKey) -> bytes:
    """manifest.sig for `manifest`."""
    return sign_detached("release", manifest, key)


def open_manifest(manifest: bytes, signature: bytes, signers: Iterable[bytes]) -> Manifest:
    """Check who signed a manifest, and read it.

    Args:
        signers: raw Ed25519 keys that may sign releases.

    Raises:
        ProtocolError: FA-3016..FA-3018 its signature, FA-3011 it is malformed.
    """
    check_detached("release", signature, manifest, signers)
    return parse_manifest(manifest)


def check_manifest(
    manifest: Manifest, coordinator: str, now: datetime | None = None, client: str = VERSION
) -> None:
    """Return if a signed release is of `coordinator`, is of this time and can be run here.

    Args:
        coordinator: fingerprint of the root.
        now: this moment, unless given.
        client: version of this software.

    Raises:
        ProtocolError: FA-3042 of another coordinator, FA-3040 it has expired, FA-3041 it is from the future,
            FA-3043 it needs a newer client.
    """
    now = now or datetime.now(UTC)
    version, clock = f"Version {manifest.version}", f"this machine's clock says {now:%Y-%m-%d %H:%M} UTC"
    if manifest.coordinator != coordinator:
        raise ProtocolError(
            "FA-3042",
            f"{version} is of the coordinator {manifest.coordinator[:16]}..., not {coordinator[:16]}...",
            "Ask your coordinator's operator; it may be a forgery.",
        )
    if now > manifest.expires:
        raise ProtocolError(
            "FA-3040",
            f"{version} expired on {manifest.expires:%Y-%m-%d %H:%M}, and {clock}.",
            "Set the clock; if it is right, somebody may be holding newer versions back.",
        )
    if manifest.created > now + CLOCK_TOLERANCE:
        raise ProtocolError(
            "FA-3041",
            f"{version} was made on {manifest.created:%Y-%m-%d %H:%M}, and {clock}.",
            "Set the clock; if it is right, ask the coordinator's operator.",
        )
    if numbers_of(manifest.minimum_client) > numbers_of(client):
        raise ProtocolError(
            "FA-3043",
            f"{version} needs fedaudio {manifest.minimum_client}, and this is {client}.",
            "Update fedaudio.",
        )


def verify_release(
    files: Mapping[str, bytes],
    signers: Iterable[bytes],
    coordinator: str,
    now: datetime | None = None,
    client: str = VERSION,
) -> Release:
    """Check all there is to check about a release: that it is `coordinator`'s, whole, and nothing but that.

    Args:
        files: every file by name.
        signers, coordinator, now, client: as for `open_manifest` and `check_manifest`.

    Raises:
        ProtocolError: those of `open_manifest`, `check_manifest` and `open_release`; FA-3012 there is no
            signature, FA-3045 there is a file that does not belong to it.
    """
    for name in (MANIFEST, SIGNATURE):
        if name not in files:
            raise ProtocolError(
                "FA-3012", f"The release has no {name}.", "Ask for it where the release came from."
            )
    manifest = open_manifest(files[MANIFEST], files[SIGNATURE], signers)
    check_manifest(manifest, coordinator, now, client)
    for name in sorted(files.keys() - set(FILES)):
        raise ProtocolError(
            "FA-3045", f"{name[:80]!r} is no part of a release.", "Remove it, and ask who put it there."
        )
    return open_release(files)


def read_part(path: Path, limit: int) -> bytes:
    """What is in the file `path`, which somebody was given: at most `limit` bytes.

    Raises:
        ProtocolError: FA-3046, it cannot be read or is larger.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise ProtocolError(
            "FA-3046", f"{path} could not be read: {error.strerror}.", "Check the path and the permissions."
        ) from error
    if len(data) > limit:
        raise ProtocolError(
            "FA-3046",
            f"{path} is larger than {limit} bytes, so it is not what it should be.",
            "Check the path.",
        )
    return data


def coordinator_of(trust: Trust) -> str:
    """The fingerprint of the root that a trust statement is under: it names the coordinator."""
    return fingerprint(x509.load_pem_x509_certificate(trust.root.encode()))


def numbers_of(version: str) -> tuple[int, ...]:
    """A version of this software as numbers, which compare as versions do."""
    return tuple(map(int, version.split(".")))
