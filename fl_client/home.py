"""Where a device keeps its things."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs


@dataclass(frozen=True)
class DeviceHome:
    """A device's folder: device.toml, identity/, clips/, models/, cache/ and its processes' own reports."""

    root: Path

    @classmethod
    def find(cls, given: Path | None) -> DeviceHome:
        """`given`, or $FEDAUDIO_HOME, or the platform's data directory."""
        named = given or os.environ.get("FEDAUDIO_HOME")
        return cls(Path(named) if named else platformdirs.user_data_path("fedaudio") / "device")

    @property
    def config(self) -> Path:
        return self.root / "device.toml"

    @property
    def coordinator_certificate(self) -> Path:
        return self.root / "identity" / "coordinator.crt"

    @property
    def clips(self) -> Path:
        return self.root / "clips"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def link_status(self) -> Path:
        return self.root / "link.json"

    @property
    def listener_status(self) -> Path:
        return self.root / "listener.json"

    @property
    def events(self) -> Path:
        return self.root / "events.jsonl"
