"""device.toml as a value."""

from __future__ import annotations

from pydantic import Field

from common.settings import Settings


class DeviceSettings(Settings):
    """All there is to configure at a device."""

    name: str = Field(min_length=1, max_length=64, pattern=r"^[\w.-]+$", description="unique in the fleet")
    server: str = Field(pattern=r"^\S+:\d{1,5}$", description="host:port of the coordinator")
    source: str | None = Field(
        None, description="mic, stdin, or file:PATH[,loop][,fast]; unset: no listening"
    )
    worker_idle_seconds: float = Field(
        120.0, ge=0, description="how long training stays loaded after a round"
    )
    worker_niceness: int = Field(10, ge=0, le=19, description="listening goes before training")
    require_privacy: bool = Field(
        False, description="refuse to train without differential privacy, and to evaluate"
    )
    least_noise: float | None = Field(
        None, gt=0, le=1000, description="smallest noise_multiplier to train with; implies require_privacy"
    )
