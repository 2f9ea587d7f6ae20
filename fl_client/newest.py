"""The model a device hears with, for commands that ask about it."""

from __future__ import annotations

from common.errors import DeviceError
from common.protocol.release import Release
from fl_client.home import DeviceHome
from fl_client.kept import personal
from fl_client.store import ModelStore


def newest(home: DeviceHome) -> Release:
    """The newest whole release, with the device's own parameters in it.

    Raises:
        DeviceError: FA-4220, there is none.
    """
    release = ModelStore(home.models).load_current()
    if release is None:
        raise DeviceError(
            "FA-4220",
            f"There is no model in {home.models} to listen with.",
            "Run `fedaudio client start` until the first release has come.",
        )
    return personal(release, home.kept)
