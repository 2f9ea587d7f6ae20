"""What a device's folder tells about it, whether it runs or not."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TypedDict

from common.settings import load_settings
from fl_client.home import DeviceHome
from fl_client.settings import DeviceSettings
from fl_client.store import ModelStore

STALE_SECONDS = 10.0
"""A process that has not written its report for so long is not running."""

Report = dict[str, float | int | bool | str | None]


class Status(TypedDict):
    """All of it. `link` and `listener` are None when they are not running."""

    name: str
    server: str
    version: int | None
    clips: int
    link: Report | None
    listener: Report | None


def describe(home: DeviceHome) -> Status:
    """The state of the device in `home`."""
    settings = load_settings(DeviceSettings, home.config)
    return Status(
        name=settings.name,
        server=settings.server,
        version=ModelStore(home.models).current_version(),
        clips=sum(1 for _ in home.clips.glob("[!_]*/*.flac")),
        link=_read(home.link_status),
        listener=_read(home.listener_status),
    )


def _read(path: Path) -> Report | None:
    try:
        if time.time() - path.stat().st_mtime > STALE_SECONDS:
            return None
        report: Report = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return report
