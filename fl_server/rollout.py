"""Which versions devices are given, and how many of them: a few first, then more, then all."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import select

from common.errors import CoordinatorError, ProtocolError
from common.files import write_atomic
from common.protocol.release import MANIFEST, SIGNATURE
from common.protocol.signed_release import open_manifest, sign_manifest
from common.security.trust import Trust
from fl_server import evidence
from fl_server.home import CoordinatorHome
from fl_server.registry import Model, Registry
from fl_server.releases import ALL, give, release_folder, stages

STAGES = (1.0, 10.0, ALL)
"""Per cent of the devices that are given a version, one stage after the other."""


def hand_out(home: CoordinatorHome, registry: Registry) -> None:
    """Give devices what the database says: signed versions, each to its share of them."""
    # In a transaction that may write, so that whoever writes the pointer last has read the newest state.
    with registry.session() as session:
        rows = session.scalars(select(Model).where(Model.signed, Model.rollout > 0)).all()
        give(home.releases, [(row.version, row.rollout) for row in rows])


def promote(
    home: CoordinatorHome,
    registry: Registry,
    trust: Trust,
    version: int,
    *,
    signature: bytes | None = None,
    percent: float | None = None,
) -> Model:
    """Give `version` to more devices.

    Args:
        trust: says which keys may sign releases.
        signature: manifest.sig of a version that was not signed yet; by default the one in its folder.
        percent: of the devices, in (0, 100]; by default the next of `STAGES`.

    Raises:
        CoordinatorError: FA-5007 there is no such version, FA-5031 it is not signed, FA-5032 the signature is
            wrong, FA-5035 it is given to as many already or a newer version is given to all.
        StorageError: FA-8001.
    """
    with registry.session() as session:
        row = session.get(Model, version)
        if row is None:
            raise no_version(version)
        target = percent if percent is not None else next((s for s in STAGES if s > row.rollout), ALL)
        ahead = select(Model.version).where(Model.version > version, Model.signed, Model.rollout >= ALL)
        if newer := session.scalar(ahead):
            raise _no_use(f"All devices are given version {newer}, which is newer than version {version}.")
        if target <= row.rollout:
            raise _no_use(f"Version {version} is given to {row.rollout:g} % of the devices already.")
        if not row.signed or signature is not None:
            _sign(home, trust, version, signature)
            row.signed = True
        row.rollout = target
        evidence.append(session, "rollout", version=version, percent=target)
    hand_out(home, registry)
    return row


def sign_anew(home: CoordinatorHome, key: Ed25519PrivateKey) -> None:
    """Sign the versions that devices are given with another release key. What they say stays.

    Raises:
        StorageError: FA-8001.
    """
    for version, _ in stages(home.releases):
        folder = release_folder(home.releases, version)
        write_atomic(folder / SIGNATURE, sign_manifest((folder / MANIFEST).read_bytes(), key))


def no_version(version: int) -> CoordinatorError:
    """The error of a version that was never made."""
    return CoordinatorError(
        "FA-5007", f"There is no version {version}.", "See `fedaudio server models list`."
    )


def _sign(home: CoordinatorHome, trust: Trust, version: int, signature: bytes | None) -> None:
    """Check the signature of a version, and keep it."""
    folder = release_folder(home.releases, version)
    path = folder / SIGNATURE
    if signature is None and path.is_file():
        signature = path.read_bytes()
    if signature is None:
        raise CoordinatorError(
            "FA-5031",
            f"Version {version} is not signed.",
            f"Where the release key is, run `fedaudio server models sign` on {folder / MANIFEST}; "
            "then promote with --signature.",
        )
    try:
        open_manifest((folder / MANIFEST).read_bytes(), signature, trust.release_keys())
    except (ProtocolError, OSError) as error:
        why = error.happened if isinstance(error, ProtocolError) else f"{error.strerror}."
        raise CoordinatorError(
            "FA-5032",
            f"Version {version} cannot be given to devices: {why}",
            "Sign its manifest.json with the release key that keys/trust.fas names.",
        ) from error
    write_atomic(path, signature)


def _no_use(happened: str) -> CoordinatorError:
    return CoordinatorError(
        "FA-5035",
        happened,
        "Name a higher --percent; to take a version back: fedaudio server models rollback",
    )
