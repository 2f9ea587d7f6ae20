"""One task at a listener."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from common.protocol.release import Release
from fl_client.listen.recorder import Recorder
from fl_client.listen.settings import ListenSettings
from fl_client.store import ModelStore

Personal: TypeAlias = Callable[[Release], Release]
"""Puts the device's own parameters into a release; asked each time a release is put to work."""


def as_released(release: Release) -> Release:
    """The `Personal` of who has no parameters of its own."""
    return release


@dataclass(frozen=True)
class Room:
    """What one task brings along; the sound is the same for all.

    Attributes:
        name: told with what is heard.
        store: holds its releases; the newest is followed.
        personal: what changes in the device's own parameters is heard with the next release.
        settings: what the owner has a say in: thresholds, smoothing and gate.
        recorder: keeps the sound of events, from when the listener begins to when it ends.
        trial_path: where it is noted that a release is on trial; see `fl_client.listen.trials`.
    """

    name: str
    store: ModelStore
    personal: Personal = as_released
    settings: ListenSettings = field(default_factory=ListenSettings)
    recorder: Recorder | None = None
    trial_path: Path | None = None
