"""The tasks that one device listens for: its own, and those of other devices' folders on the same machine."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from common.errors import ConfigError
from common.files import is_there
from common.settings import load_settings
from fl_client.home import DeviceHome
from fl_client.listen.events import MAIN
from fl_client.settings import DeviceSettings

log = logging.getLogger(__name__)


def task_homes(home: DeviceHome, settings: DeviceSettings) -> dict[str, DeviceHome]:
    """The folder of each task that the device in `home` listens for, its own first.

    Args:
        settings: of `home`, to whose folder relative paths in [tasks] are relative.

    Raises:
        ConfigError: FA-6010, a folder is no device's; FA-6011, a folder is named twice.
        StorageError: FA-8001.
    """
    homes = {MAIN: home}
    names = {os.path.realpath(home.root): MAIN}
    for name, folder in settings.tasks.items():
        place = os.path.realpath(home.root / folder)
        other = DeviceHome(Path(place))
        if place in names:
            raise ConfigError(
                "FA-6011",
                f"{home.config}: the tasks {names[place]!r} and {name!r} are in the same folder, {place}.",
                "Name each folder once under [tasks]; the device's own is not named there.",
            )
        if not is_there(other.config):
            raise ConfigError(
                "FA-6010",
                f"{home.config}: there is no device in {place}, which is to have the task {name!r}.",
                "Enrol one there with `fedaudio client enroll --home`, or correct the folder under [tasks].",
            )
        homes[name], names[place] = other, name
    return homes


def warn_of_unused(homes: Mapping[str, DeviceHome]) -> None:
    """Log what further tasks have in their device.toml to no avail: the sound, and the place where it is told
    what was heard, are those of the device that listens.

    Raises:
        ConfigError: FA-6001..FA-6003.
    """
    for task, home in homes.items():
        if task != MAIN and (unused := _unused(load_settings(DeviceSettings, home.config))):
            names = ", ".join(unused)
            log.warning("not used in %s, whose task is listened for with others: %s", home.config, names)


def _unused(settings: DeviceSettings) -> list[str]:
    own = {"source", "tasks", "outlet"} & settings.model_fields_set
    shared = {"levels", "level_seconds", "levels_csv", "calibration_db", "alarms"}
    return sorted(own | {f"listen.{key}" for key in shared & settings.listen.model_fields_set})
