"""Where a passphrase comes from: a file, a systemd credential or the keyboard. Never an argument."""

from __future__ import annotations

import getpass
import os
import sys
from pathlib import Path

from common.errors import ConfigError

CREDENTIAL = "fedaudio.passphrase"
"""Name of the systemd credential (LoadCredential=, LoadCredentialEncrypted=; see systemd.exec(5))."""


def find_passphrase(file: Path | None) -> bytes | None:
    """The passphrase from `file` or the systemd credential; None if neither is given.

    Raises:
        ConfigError: FA-6008, it cannot be read or is empty.
    """
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    credential = Path(folder) / CREDENTIAL if folder else None
    path = file or (credential if credential and credential.exists() else None)
    if path is None:
        return None
    try:
        passphrase = path.read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise ConfigError(
            "FA-6008", f"The passphrase in {path} could not be read: {error.strerror}.", _GIVE
        ) from error
    if not passphrase:
        raise ConfigError("FA-6008", f"The passphrase in {path} is empty.", _GIVE)
    return passphrase


def new_passphrase(file: Path | None, what: str, *, ask: bool) -> bytes | None:
    """What new keys are to be encrypted under, as `find_passphrase`, or with `ask` from the keyboard.

    Args:
        what: whose keys, for the prompt.

    Raises:
        ConfigError: FA-6008, it cannot be read or is empty, or nothing was typed.
    """
    passphrase = find_passphrase(file)
    if passphrase is None and ask:
        passphrase = ask_passphrase(f"Passphrase for {what}", confirm=True)
        if passphrase is None:
            raise ConfigError(
                "FA-6008", "No passphrase was typed.", "Type one at a terminal, or use --passphrase-file."
            )
    return passphrase


def ask_passphrase(prompt: str, *, confirm: bool = False) -> bytes | None:
    """A passphrase from the keyboard; None where there is none or where nothing was typed.

    Raises:
        ConfigError: FA-6008, the two that were typed differ.
    """
    if not sys.stdin.isatty():
        return None
    try:
        typed = getpass.getpass(f"{prompt}: ")
        again = getpass.getpass(f"{prompt} again: ") if confirm and typed else typed
    except EOFError:
        return None
    if again != typed:
        raise ConfigError("FA-6008", "The two passphrases differ.", "Try again.")
    return typed.encode() or None


_GIVE = "Put one line into the file, and let only its owner read it."
