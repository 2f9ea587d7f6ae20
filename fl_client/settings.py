"""device.toml as a value."""

from __future__ import annotations

from pydantic import Field

from common.names import DeviceName
from common.settings import Settings
from fl_client.keep_settings import KeepSettings
from fl_client.listen.settings import ListenSettings
from fl_client.outlet.settings import OutletSettings


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
    listen: ListenSettings = ListenSettings()
    keep: KeepSettings = KeepSettings()
    outlet: OutletSettings = OutletSettings()
