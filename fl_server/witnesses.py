"""What holds the evidence in place from outside: the signed manifests of releases.

Each release has a line with the digest of its manifest, and each manifest names the line before that one. So
whoever rewrites the log must also sign the manifests anew, here and wherever else they are kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import ProtocolError
from common.files import sha256
from common.protocol.release import LARGEST_MANIFEST, MANIFEST, SIGNATURE, Manifest, parse_manifest
from common.protocol.signed_release import read_part
from common.security.statement import SIGNATURE_BYTES, check_detached
from fl_server.evidence import broken, check_anchor, contradicted, lines
from fl_server.registry import Registry
from fl_server.releases import release_folder, stages


@dataclass
class _Told:
    """What the log tells of one version.

    Args:
        seq: of its line.
        manifest: digest.
        given: whether devices were ever given it.
    """

    seq: int
    manifest: str
    given: bool


def check_releases(registry: Registry, releases: Path, signers: Sequence[bytes]) -> list[str]:
    """Compare every release that the log tells of with its folder, and return what is not there, in words.

    Args:
        signers: raw Ed25519 keys that may have signed a release at any time.

    Raises:
        CoordinatorError: FA-5055, a manifest is another than the log tells of, names another line, or was
            given to devices and is not signed; or devices are given what the log does not tell of.
    """
    on_disk = {int(folder.name) for folder in releases.glob("[0-9]*") if folder.name.isdecimal()}
    told, findings = _told(registry), []
    given = {version for version, _ in stages(releases)}
    for version, line in told.items():
        folder = release_folder(releases, version)
        if (folder / MANIFEST).is_file():
            _check_release(registry, folder, line, signers)
        elif version in given:
            raise contradicted(f"Devices are given version {version}, and {folder / MANIFEST} is not there.")
        else:
            findings.append(f"The manifest of version {version} is not there: it vouches for nothing.")
    for version in sorted(on_disk - told.keys()):
        if version in given:
            raise contradicted(f"Devices are given version {version}, and no line tells of its release.")
        findings.append(f"No line tells of the folder of version {version}, which devices are not given.")
    return findings


def check_kept(registry: Registry, path: Path, signers: Sequence[bytes], coordinator: str) -> Manifest:
    """Compare the log with a manifest that was kept elsewhere, its manifest.sig beside it.

    Args:
        coordinator: fingerprint of the root.

    Raises:
        ProtocolError: FA-3046 it cannot be read, FA-3016..FA-3018 it is not signed by a key of ours, FA-3011
            it is malformed, FA-3042 it is of another coordinator.
        CoordinatorError: FA-5055, the log tells of it otherwise, or not at all.
    """
    data = read_part(path, LARGEST_MANIFEST)
    check_detached("release", read_part(path.with_name(SIGNATURE), SIGNATURE_BYTES), data, signers)
    manifest = parse_manifest(data)
    if manifest.coordinator != coordinator:
        raise ProtocolError(
            "FA-3042", f"{path} is of the coordinator {manifest.coordinator[:16]}...", "Name one of this one."
        )
    line = _told(registry).get(manifest.version)
    if line is None:
        raise contradicted(f"No line tells of the release of version {manifest.version}, which {path} is of.")
    _check_manifest(registry, path, data, line)
    return manifest


def _told(registry: Registry) -> Mapping[int, _Told]:
    """By version, what the log tells of releases. It must have been verified."""
    told: dict[int, _Told] = {}
    for text in lines(registry):
        line = json.loads(text)
        try:
            if line["kind"] in ("release", "rollback"):
                if line["version"] != len(told):
                    raise contradicted(f"No line tells of the release of version {len(told)}.")
                told[line["version"]] = _Told(line["seq"], line["manifest"], line["percent"] > 0)
            elif line["kind"] == "rollout":
                told[line["version"]].given = True
        except (KeyError, TypeError) as error:
            raise broken(line["seq"], "is not what a coordinator writes") from error
    return told


def _check_release(registry: Registry, folder: Path, line: _Told, signers: Sequence[bytes]) -> None:
    path, signature = folder / MANIFEST, folder / SIGNATURE
    try:
        data = read_part(path, LARGEST_MANIFEST)
        if line.given or signature.is_file():
            check_detached("release", read_part(signature, SIGNATURE_BYTES), data, signers)
        _check_manifest(registry, path, data, line)
    except ProtocolError as error:
        raise contradicted(f"{path} does not vouch for the evidence: {error.happened}") from error


def _check_manifest(registry: Registry, path: Path, data: bytes, line: _Told) -> None:
    if sha256(data) != line.manifest:
        raise contradicted(f"{path} is not the manifest that line {line.seq} tells of.")
    anchor = parse_manifest(data).evidence
    if anchor.entries != line.seq - 1:
        raise contradicted(f"{path} was made after line {anchor.entries}, and line {line.seq} tells of it.")
    check_anchor(registry, anchor.entries, anchor.head, str(path))
