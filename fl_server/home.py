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
    def releases(self) -> Path:
        return self.root / "releases"

    @property
    def certificate(self) -> Path:
        return self.root / "keys" / "tls.crt"

    @property
    def tls_key(self) -> Path:
        return self.root / "keys" / "tls.key"

    @property
    def lock(self) -> Path:
        return self.root / "coordinator.lock"
