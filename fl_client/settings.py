"""device.toml as a value."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from common.names import DeviceName
from common.settings import Settings
from fl_client.keep_settings import KeepSettings
from fl_client.listen.events import MAIN
from fl_client.listen.settings import ListenSettings
from fl_client.outlet.settings import OutletSettings


def _is_further(name: str) -> str:
    if name == MAIN:
        raise ValueError(f"{MAIN} is the device's own task")
    return name


TaskName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,32}$"), AfterValidator(_is_further)]
"""A bare key of TOML. It becomes part of topics, templates and labels as it is."""

TaskFolder = Annotated[str, Field(min_length=1, pattern=r"^[^\x00]+$")]


class DeviceSettings(Settings):
    """All there is to configure at a device; what it agrees to is in policy.toml."""

    name: DeviceName = Field(description="unique in the fleet")
    server: str = Field(pattern=r"^\S+:\d{1,5}$", description="host:port of the coordinator")
    coordinator: str = Field(
        pattern=r"^[0-9a-f]{64}$", description="fingerprint of the coordinator's root certificate"
    )
    source: str | None = Field(
        None, description="mic, stdin, file:PATH, dir:PATH or ws:ADDRESS:PORT; unset: no listening"
    )
    witness: str | None = Field(
        None,
        min_length=1,
        description="file that tells how far the ledger has come, best on another disk; "
        "unset: witness/ledger.json",
    )
    worker_idle_seconds: float = Field(
        120.0, ge=0, description="how long training stays loaded after a round"
    )
    worker_niceness: int = Field(10, ge=0, le=19, description="listening goes before training")
    tasks: dict[TaskName, TaskFolder] = Field(
        default_factory=dict,
        max_length=8,
        description="other devices' folders, whose tasks are listened for too, by the name of the task",
    )
    listen: ListenSettings = ListenSettings()
    keep: KeepSettings = KeepSettings()
    outlet: OutletSettings = OutletSettings()
