"""Options that the commands of a device share, and what they all begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.errors import DeviceError
from common.files import is_there
from common.settings import load_settings
from fl_client.home import DeviceHome
from fl_client.settings import DeviceSettings

Home = Annotated[Path | None, typer.Option("--home", help="Folder of the device's state.")]
PassphraseFile = Annotated[Path | None, typer.Option(help="File with the passphrase of the device's keys.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def existing(home: Path | None) -> DeviceHome:
    """The device in `home`.

    Raises:
        DeviceError: FA-4010, there is none.
        ConfigError: FA-6002, FA-6003 device.toml.
    """
    place = DeviceHome.find(home)
    if not is_there(place.config):
        raise DeviceError(
            "FA-4010",
            f"There is no device in {place.root}.",
            "Run `fedaudio client enroll` with a string from the coordinator's operator.",
        )
    load_settings(DeviceSettings, place.config)
    return place


def unlock(place: DeviceHome, file: Path | None) -> bytes | None:
    """The password of the device's keys; the keyboard comes last.

    Raises:
        ConfigError: FA-6005..FA-6007.
    """
    from common.security.keys import KeyFolder, read_protection
    from common.security.passphrase import ask_passphrase, find_passphrase
    from fl_client.identity import load_pair

    if read_protection(place.identity).by == "file-mode":
        return None
    secret = find_passphrase(file) or ask_passphrase(f"Passphrase of the keys in {place.identity}")
    password = KeyFolder.unlock(place.identity, secret).password
    load_pair(KeyFolder(place.identity, password))
    return password
