"""A device whose power goes in the middle of things."""

from __future__ import annotations

from pathlib import Path

import pytest

from common import files
from fl_client.home import DeviceHome


class PowerCut(BaseException):
    """Nothing may catch it: the machine is off."""


def crash_at(monkeypatch: pytest.MonkeyPatch, step: int, home: DeviceHome) -> None:
    """Have the power of the device in `home` go at write number `step`, before the file has its name.

    Names that were given before and whose folder was not brought to the disk since are lost with it.
    """
    left = step
    before: dict[Path, bytes | None] = {}
    """What the disk has under a name that was given and not synced."""

    def replace(self: Path, target: Path) -> Path:
        nonlocal left
        left -= self.is_relative_to(home.root)
        if left == 0 and self.is_relative_to(home.root):
            for path, data in before.items():
                path.unlink() if data is None else path.write_bytes(data)
            raise PowerCut
        if self.is_relative_to(home.root):
            before.setdefault(target, target.read_bytes() if target.exists() else None)
        return real(self, target)

    def sync(path: Path) -> None:
        real_sync(path)
        for synced in [name for name in before if name.parent == path]:
            del before[synced]

    real, real_sync = Path.replace, files.sync_folder
    monkeypatch.setattr(files.Path, "replace", replace)
    monkeypatch.setattr(files, "sync_folder", sync)
