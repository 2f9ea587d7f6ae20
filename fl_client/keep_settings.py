"""[keep] of device.toml as a value: what of the sound that is heard may stay on the device, and how long."""

from __future__ import annotations

from pydantic import Field

from common.settings import Settings


class KeepSettings(Settings):
    """What the owner allows to be kept. Unless told otherwise, nothing is."""

    events: bool = Field(False, description="keep the sound of each event, for `fedaudio client feedback`")
    self_training: bool = Field(
        False, description="keep other sounds too, and learn from them what the model took them for"
    )
    windows_per_hour: int = Field(6, ge=1, le=3600, description="most sounds kept for self-training")
    least_score: float = Field(0.9, gt=0, lt=1, description="score from which they are kept and learned from")
    share: float = Field(
        0.25, gt=0, le=1, description="most of them in a round, as a share of the labelled clips"
    )
    max_mb: float = Field(100.0, gt=0, le=1_000_000, description="the oldest make room")
    max_days: float = Field(30.0, gt=0, le=3650, description="what is older is deleted")

    @property
    def anything(self) -> bool:
        """Whether any sound is kept."""
        return self.events or self.self_training
