"""Options that the commands of the coordinator share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fl_server.home import CoordinatorHome

if TYPE_CHECKING:
    from fl_server.settings import ServerSettings

Home = Annotated[Path | None, typer.Option("--home", help="Folder of the coordinator's state.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file",
        help="File with the keys' passphrase; else the systemd credential fedaudio.passphrase, or a prompt.",
    ),
]


def existing(home: Path | None) -> CoordinatorHome:
    """The coordinator in `home`.

    Raises:
        ConfigError: FA-6001..FA-6003, there is none.
    """
    place = CoordinatorHome.find(home)
    settings_of(place)
    return place


def settings_of(place: CoordinatorHome) -> ServerSettings:
    """server.toml of `place`.

    Raises:
        ConfigError: FA-6001..FA-6003.
    """
    from common.settings import load_settings
    from fl_server.settings import ServerSettings

    return load_settings(ServerSettings, place.config)
