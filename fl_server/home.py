"""Where a coordinator keeps its things."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs


@dataclass(frozen=True)
class CoordinatorHome:
    """The coordinator's folder: server.toml, keys/, coordinator.db, releases/."""

    root: Path

    @classmethod
    def find(cls, given: Path | None) -> CoordinatorHome:
        """`given`, or $FEDAUDIO_HOME, or the platform's data directory."""
        named = given or os.environ.get("FEDAUDIO_HOME")
        return cls(Path(named) if named else platformdirs.user_data_path("fedaudio") / "server")

    @property
    def config(self) -> Path:
        return self.root / "server.toml"

    @property
    def database(self) -> Path:
        return self.root / "coordinator.db"

    @property
    def warm_start(self) -> Path:
        """The body of the first version, where it is not to begin from nothing (`fl_server.warm_start`)."""
        return self.root / "warm-start.safetensors"

    @property
    def releases(self) -> Path:
        return self.root / "releases"

    @property
    def keys(self) -> Path:
        """Keys by name (`common.security.keys`): root, device-ca, tls, plan, release, envelope(-mlkem)."""
        return self.root / "keys"

    @property
    def certificate(self) -> Path:
        return self.keys / "tls.crt"

    @property
    def root_certificate(self) -> Path:
        return self.keys / "root.crt"

    @property
    def device_ca_certificate(self) -> Path:
        return self.keys / "device-ca.crt"

    @property
    def previous_device_ca_certificate(self) -> Path:
        """Of the device CAs before the one in use, the newest first; missing before the first rotation."""
        return self.keys / "device-ca-previous.crt"

    @property
    def trust(self) -> Path:
        """The signed trust statement that devices are given."""
        return self.keys / "trust.fas"

    @property
    def next_keys(self) -> Path:
        """Where a rotation gathers what it is about to put into `keys`."""
        return self.keys / "next"

    @property
    def rotation_lock(self) -> Path:
        return self.keys / "rotation.lock"

    @property
    def evidence_head(self) -> Path:
        """How far the evidence has come; see `fl_server.evidence`."""
        return self.root / "evidence.head"

    @property
    def lock(self) -> Path:
        return self.root / "coordinator.lock"

    @property
    def open_lock(self) -> Path:
        return self.root / "open.lock"
