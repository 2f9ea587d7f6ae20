"""Signing a version where the release key is, which may be a machine that nothing can reach."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.errors import ConfigError
from common.files import write_atomic
from common.protocol.release import LARGEST_MANIFEST, SIGNATURE, Manifest, parse_manifest
from common.protocol.signed_release import read_part, sign_manifest
from common.security.keys import PROTECTION, KeyFolder, KeyGroup, load_key_file, read_protection
from common.security.passphrase import ask_passphrase, find_passphrase


def sign_offline(manifest: Path, key: Path, passphrase_file: Path | None) -> tuple[Manifest, Path]:
    """Sign `manifest` with the release key in the file `key`.

    Args:
        key: a key that needs a passphrase has a copy of protection.json beside it.
        passphrase_file: of the folder the key was made in; else the systemd credential, else the keyboard.

    Returns:
        What was signed, and the signature's file, manifest.sig beside it.

    Raises:
        ConfigError: FA-6005..FA-6008, the key cannot be used.
        ProtocolError: FA-3011 the manifest is malformed, FA-3046 it cannot be read.
        StorageError: FA-8001.
    """
    data = read_part(manifest, LARGEST_MANIFEST)
    parsed = parse_manifest(data)
    signature = sign_manifest(data, load_key_file(key, _password(key, passphrase_file), Ed25519PrivateKey))
    path = manifest.with_name(SIGNATURE)
    write_atomic(path, signature)
    return parsed, path


def _password(key: Path, passphrase_file: Path | None) -> bytes | None:
    folder = key.parent
    if (folder / PROTECTION).exists():
        if read_protection(folder).by == "file-mode":
            return None
        passphrase = find_passphrase(passphrase_file) or ask_passphrase("Passphrase of the release key")
        return KeyGroup.MAIN.password(KeyFolder.unlock(folder, passphrase).password)
    if b"ENCRYPTED" in read_part(key, LARGEST_KEY):
        raise ConfigError(
            "FA-6005",
            f"There is no {PROTECTION} beside {key}.",
            "Copy it there from the coordinator's keys folder: without it no passphrase opens the key.",
        )
    return None


LARGEST_KEY = 1 << 16
