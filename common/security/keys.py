"""Private keys on disk: PKCS#8, encrypted under a passphrase, or protected by the file's mode alone.

The passphrase goes through Argon2id (RFC 9106) once; what comes out is the folder's password. From it HKDF
(RFC 5869) derives the password of the PKCS#8 files (PBES2, RFC 8018) of each group of keys, so that a process
that needs one group can open no other. Any OpenSSL can read the files. protection.json holds the salt.
"""

from __future__ import annotations

import os
import secrets
import stat
from enum import StrEnum
from pathlib import Path
from typing import Literal, TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from pydantic import Field

from common.errors import ConfigError
from common.files import make_folder, write_atomic
from common.security.canonical import canonical, read_canonical
from common.settings import Settings

Key = TypeVar("Key")

PROTECTION = "protection.json"


class KeyGroup(StrEnum):
    """Keys whose files have one password."""

    FRONT = "front"
    """What the coordinator's network-facing process needs."""

    MAIN = "main"

    @classmethod
    def of(cls, name: str) -> KeyGroup:
        """The group of the key called `name`."""
        return cls.FRONT if name in {"tls", "device-ca"} else cls.MAIN

    def password(self, folder: bytes | None) -> bytes | None:
        """The password of this group's files.

        Args:
            folder: the folder's password, as `KeyFolder.unlock` derives it; None when file mode protects it.
        """
        if folder is None:
            return None
        info = f"fedaudio/keys/{self}".encode()
        return (
            HKDF(SHA256(), length=32, salt=None, info=info)
            .derive(bytes.fromhex(folder.decode()))
            .hex()
            .encode()
        )


class Protection(Settings):
    """How the keys of a folder are protected at rest. The costs are the second choice of RFC 9106."""

    by: Literal["passphrase", "file-mode"]
    salt: str = Field("", pattern=r"^([0-9a-f]{32})?$")
    memory_kib: int = Field(65_536, ge=8_192, le=4_194_304)
    iterations: int = Field(3, ge=1, le=100)
    lanes: int = Field(4, ge=1, le=64)


class KeyFolder:
    """Keys by name in a folder that only its owner may enter.

    Args:
        folder: made with mode 0700 by `create`.
        password: of the folder, as `unlock` derives it: 32 bytes in hexadecimal; None when file mode protects
            the keys.
    """

    def __init__(self, folder: Path, password: bytes | None) -> None:
        self.folder = folder
        self.password = password

    @classmethod
    def create(cls, folder: Path, passphrase: bytes | None) -> KeyFolder:
        """A folder for keys that are encrypted under `passphrase`, or protected by mode 0600 without one.

        Raises:
            StorageError: FA-8001.
        """
        make_folder(folder, mode=0o700)
        folder.chmod(0o700)
        if passphrase is None:
            protection = Protection(by="file-mode")
        else:
            protection = Protection(by="passphrase", salt=secrets.token_hex(16))
        write_atomic(folder / PROTECTION, canonical(protection), mode=0o600)
        return cls.unlock(folder, passphrase)

    @classmethod
    def unlock(cls, folder: Path, passphrase: bytes | None) -> KeyFolder:
        """The keys in `folder`. A wrong passphrase is found when the first key is loaded.

        Raises:
            ConfigError: FA-6005 there are no keys, FA-6006 they need a passphrase and there is none.
        """
        protection = read_protection(folder)
        if protection.by == "file-mode":
            return cls(folder, None)
        if passphrase is None:
            raise ConfigError(
                "FA-6006",
                f"The keys in {folder} are protected by a passphrase, and none was given.",
                "Give --passphrase-file, or the systemd credential fedaudio.passphrase.",
            )
        derived = Argon2id(
            salt=bytes.fromhex(protection.salt),
            length=32,
            iterations=protection.iterations,
            lanes=protection.lanes,
            memory_cost=protection.memory_kib,
        ).derive(passphrase)
        return cls(folder, derived.hex().encode())

    def has(self, name: str) -> bool:
        """Whether there is a key called `name`."""
        return self.path(name).is_file()

    def path(self, name: str) -> Path:
        """Where the key called `name` is, or would be."""
        return self.folder / f"{name}.key"

    def save(self, name: str, key: PrivateKeyTypes) -> None:
        """Write `key`; the one before it is gone.

        Raises:
            StorageError: FA-8001.
        """
        data = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, self._encryption(name))
        write_atomic(self.path(name), data, mode=0o600)

    def load(self, name: str, kind: type[Key]) -> Key:
        """Read the key called `name`, which must be a `kind`.

        Raises:
            ConfigError: FA-6005 it is not there or not such a key, FA-6006 the passphrase is wrong,
                FA-6007 others may read it.
        """
        return load_key_file(self.path(name), KeyGroup.of(name).password(self.password), kind)

    def _encryption(self, name: str) -> KeySerializationEncryption:
        password = KeyGroup.of(name).password(self.password)
        return NoEncryption() if password is None else BestAvailableEncryption(password)


def load_key_file(path: Path, password: bytes | None, kind: type[Key]) -> Key:
    """One PKCS#8 file; see `KeyFolder.load`.

    Args:
        password: of its group.
    """
    try:
        with path.open("rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise ConfigError(
                    "FA-6007", f"Others than its owner may use the key {path}.", f"Run: chmod 600 {path}"
                )
            data = file.read()
    except OSError as error:
        raise ConfigError(
            "FA-6005", f"The key {path} could not be read: {error.strerror}.", _RESTORE
        ) from error
    try:
        key = load_pem_private_key(data, password)
    except TypeError as error:
        raise ConfigError(
            "FA-6006", f"The key {path} is not protected as its folder says.", _RESTORE
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        if password is None:
            raise ConfigError("FA-6005", f"{path} is not a private key.", _RESTORE) from error
        raise ConfigError(
            "FA-6006", f"The passphrase does not open {path}.", "Give the passphrase it was made with."
        ) from error
    if not isinstance(key, kind):
        raise ConfigError("FA-6005", f"{path} is another kind of key.", _RESTORE)
    return key


def read_protection(folder: Path) -> Protection:
    """How the keys in `folder` are protected.

    Raises:
        ConfigError: FA-6005.
    """
    try:
        data = (folder / PROTECTION).read_bytes()
    except OSError as error:
        raise ConfigError("FA-6005", f"There are no keys in {folder}.", _RESTORE) from error
    protection = read_canonical(Protection, data)
    if isinstance(protection, str):
        raise ConfigError("FA-6005", f"{folder / PROTECTION} is malformed: {protection}.", _RESTORE)
    return protection


_RESTORE = "Restore the folder from a backup; or make keys anew (`init`, `enroll`)."
