"""Private keys at rest: encrypted or for their owner alone, and refused if they are not what they must be."""

from __future__ import annotations

import hmac
import json
import os
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from common.errors import ConfigError
from common.security.keys import PROTECTION, KeyFolder, KeyGroup, load_key_file, read_protection

PASSPHRASE = b"correct horse battery staple"


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> KeyFolder:
    return KeyFolder.create(tmp_path_factory.mktemp("home") / "keys", PASSPHRASE)


@pytest.fixture
def plain(tmp_path: Path) -> KeyFolder:
    return KeyFolder.create(tmp_path / "keys", None)


def every_key() -> dict[str, PrivateKeyTypes]:
    """One of each kind there is."""
    return {
        "ed25519": Ed25519PrivateKey.generate(),
        "p256": ec.generate_private_key(ec.SECP256R1()),
        "x25519": X25519PrivateKey.generate(),
        "mlkem": MLKEM768PrivateKey.generate(),
    }


def secrets_of(key: PrivateKeyTypes) -> list[bytes]:
    """Spellings of a private key that must not be in an encrypted file."""
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return [der, der[-32:], *pem.splitlines()[1:-1]]


def same(one: PrivateKeyTypes, other: PrivateKeyTypes) -> bool:
    return secrets_of(one) == secrets_of(other)


@pytest.mark.parametrize("name", every_key())
def test_a_key_under_a_passphrase_comes_back_and_is_not_on_the_disk(encrypted: KeyFolder, name: str) -> None:
    key = every_key()[name]
    encrypted.save(name, key)
    data = encrypted.path(name).read_bytes()
    assert data.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert not [secret for secret in secrets_of(key) if secret in data]
    assert PASSPHRASE not in data
    assert same(KeyFolder.unlock(encrypted.folder, PASSPHRASE).load(name, type(key)), key)


@pytest.mark.parametrize("name", every_key())
def test_a_key_without_a_passphrase_is_its_owners_alone(plain: KeyFolder, name: str) -> None:
    key = every_key()[name]
    plain.save(name, key)
    assert stat.S_IMODE(plain.path(name).stat().st_mode) == 0o600
    assert stat.S_IMODE(plain.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((plain.folder / PROTECTION).stat().st_mode) == 0o600
    assert same(KeyFolder.unlock(plain.folder, None).load(name, type(key)), key)


@pytest.mark.parametrize(("name", "group"), [("any", "main"), ("tls", "front"), ("device-ca", "front")])
def test_the_files_are_what_the_protocol_says(
    encrypted: KeyFolder, tmp_path: Path, name: str, group: str
) -> None:
    """HKDF of Argon2id of the passphrase, in hexadecimal, opens them with any OpenSSL."""
    key = Ed25519PrivateKey.generate()
    encrypted.save(name, key)
    facts = json.loads((encrypted.folder / PROTECTION).read_bytes())
    derived = Argon2id(
        salt=bytes.fromhex(facts["salt"]), length=32, iterations=3, lanes=4, memory_cost=65_536
    ).derive(PASSPHRASE)
    assert facts == {
        "by": "passphrase",
        "salt": facts["salt"],
        "memory_kib": 65_536,
        "iterations": 3,
        "lanes": 4,
    }
    # HKDF by its definition (RFC 5869): no salt is 32 zeros, and one block is enough.
    secret = hmac.digest(bytes(32), derived, "sha256")
    password = hmac.digest(secret, f"fedaudio/keys/{group}".encode() + b"\x01", "sha256")
    (tmp_path / "password").write_text(password.hex())
    command = ["openssl", "pkey", "-in", str(encrypted.path(name)), "-passin", f"file:{tmp_path}/password"]
    opened = subprocess.run([*command, "-outform", "DER"], check=True, capture_output=True, timeout=60)
    assert opened.stdout[-32:] == key.private_bytes_raw()


def test_two_folders_under_one_passphrase_have_other_passwords(encrypted: KeyFolder, tmp_path: Path) -> None:
    assert KeyFolder.create(tmp_path / "keys", PASSPHRASE).password != encrypted.password


def test_the_password_of_one_group_opens_no_key_of_the_other(encrypted: KeyFolder) -> None:
    for name in ("tls", "plan"):
        encrypted.save(name, Ed25519PrivateKey.generate())
    passwords = {group: group.password(encrypted.password) for group in KeyGroup}
    for name in ("tls", "plan"):
        for group, password in passwords.items():
            if group is KeyGroup.of(name):
                assert load_key_file(encrypted.path(name), password, Ed25519PrivateKey)
                continue
            with pytest.raises(ConfigError, match="FA-6006"):
                load_key_file(encrypted.path(name), password, Ed25519PrivateKey)
            # Nor does it, taken for the folder's.
            with pytest.raises(ConfigError, match="FA-6006"):
                KeyFolder(encrypted.folder, password).load(name, Ed25519PrivateKey)
    assert KeyGroup.FRONT.password(None) is None


@pytest.mark.parametrize("wrong", [b"another", b"", PASSPHRASE + b"\n", PASSPHRASE.upper()])
def test_a_wrong_passphrase_opens_nothing(encrypted: KeyFolder, wrong: bytes) -> None:
    encrypted.save("any", Ed25519PrivateKey.generate())
    with pytest.raises(ConfigError, match="FA-6006") as caught:
        KeyFolder.unlock(encrypted.folder, wrong).load("any", Ed25519PrivateKey)
    assert PASSPHRASE.decode() not in str(caught.value)


def test_a_passphrase_that_is_needed_and_not_given_is_asked_for(encrypted: KeyFolder) -> None:
    with pytest.raises(ConfigError, match=r"FA-6006.*--passphrase-file"):
        KeyFolder.unlock(encrypted.folder, None)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644, 0o666, 0o660, 0o601])
def test_a_key_that_others_may_use_is_refused(plain: KeyFolder, mode: int) -> None:
    plain.save("any", Ed25519PrivateKey.generate())
    plain.path("any").chmod(mode)
    with pytest.raises(ConfigError, match=r"FA-6007.*chmod 600"):
        plain.load("any", Ed25519PrivateKey)


def test_a_key_is_never_readable_by_others_while_it_is_written(plain: KeyFolder) -> None:
    before = os.umask(0)
    try:
        plain.save("any", Ed25519PrivateKey.generate())
    finally:
        os.umask(before)
    assert stat.S_IMODE(plain.path("any").stat().st_mode) == 0o600


def test_a_folder_that_was_there_is_closed_to_others(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir(mode=0o777)
    assert stat.S_IMODE(KeyFolder.create(tmp_path / "keys", None).folder.stat().st_mode) == 0o700


def test_a_key_that_is_not_there_is_named(plain: KeyFolder) -> None:
    assert not plain.has("any")
    with pytest.raises(ConfigError, match=r"FA-6005.*any\.key"):
        plain.load("any", Ed25519PrivateKey)


@pytest.mark.parametrize("kind", [X25519PrivateKey, ec.EllipticCurvePrivateKey, MLKEM768PrivateKey])
def test_a_key_of_another_kind_is_refused(plain: KeyFolder, kind: type) -> None:
    plain.save("any", Ed25519PrivateKey.generate())
    with pytest.raises(ConfigError, match=r"FA-6005.*another kind"):
        plain.load("any", kind)


@pytest.mark.parametrize("size", [0, 1, 40, -2, -30])
def test_a_damaged_key_is_refused(plain: KeyFolder, encrypted: KeyFolder, size: int) -> None:
    for keys, code in ((plain, "FA-6005"), (encrypted, "FA-6006")):
        keys.save("any", Ed25519PrivateKey.generate())
        data = keys.path("any").read_bytes()
        keys.path("any").write_bytes(data[:size])
        with pytest.raises(ConfigError, match=code):
            keys.load("any", Ed25519PrivateKey)


def test_noise_is_no_key(plain: KeyFolder) -> None:
    for data in (b"", b"\0" * 100, b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"):
        plain.path("any").touch(mode=0o600)
        plain.path("any").write_bytes(data)
        with pytest.raises(ConfigError, match="FA-6005"):
            plain.load("any", Ed25519PrivateKey)


def test_a_key_in_the_clear_among_encrypted_ones_is_refused(encrypted: KeyFolder, plain: KeyFolder) -> None:
    plain.save("any", Ed25519PrivateKey.generate())
    with pytest.raises(ConfigError, match="FA-6006"):
        load_key_file(plain.path("any"), KeyGroup.MAIN.password(encrypted.password), Ed25519PrivateKey)
    encrypted.save("any", Ed25519PrivateKey.generate())
    with pytest.raises(ConfigError, match="FA-6006"):
        load_key_file(encrypted.path("any"), None, Ed25519PrivateKey)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        '{"by":"nobody"}',
        '{"by":"file-mode","salt":"","memory_kib":1,"iterations":3,"lanes":4}',
        '{"by":"passphrase","salt":"zz","memory_kib":65536,"iterations":3,"lanes":4}',
        '{"by":"passphrase","salt":"","memory_kib":99999999999,"iterations":3,"lanes":4}',
    ],
)
def test_a_damaged_note_on_protection_is_refused(plain: KeyFolder, text: str) -> None:
    (plain.folder / PROTECTION).write_text(text)
    with pytest.raises(ConfigError, match="FA-6005"):
        KeyFolder.unlock(plain.folder, PASSPHRASE)


def test_a_folder_without_keys_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"FA-6005.*There are no keys"):
        read_protection(tmp_path)


def test_no_representation_shows_a_secret(encrypted: KeyFolder) -> None:
    assert encrypted.password is not None
    shown = repr(encrypted) + str(encrypted) + repr(read_protection(encrypted.folder))
    assert encrypted.password.decode() not in shown
    assert PASSPHRASE.decode() not in shown
