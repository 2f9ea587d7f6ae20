"""Devices' folders that one of them listens for."""

from __future__ import annotations

import tomllib
from pathlib import Path

import tomli_w

from fl_client.home import DeviceHome


def add_device(root: Path, **more: object) -> DeviceHome:
    """A folder with no more than a device.toml."""
    root.mkdir()
    home = DeviceHome(root)
    facts = {"name": root.name, "server": "127.0.0.1:1", "coordinator": "0" * 64}
    home.config.write_text(tomli_w.dumps(facts | more))
    return home


def name_tasks(home: DeviceHome, **folders: str) -> None:
    """Write [tasks] into the device.toml of `home`."""
    configure(home, tasks=folders)


def configure(home: DeviceHome, **tables: object) -> None:
    """Write these keys into the device.toml of `home`, in place of those it has."""
    settings = tomllib.loads(home.config.read_text())
    home.config.write_text(tomli_w.dumps(settings | tables))
