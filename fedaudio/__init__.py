"""fedaudio: devices learn one shared audio model without their audio leaving them.

Recognizer     feed PCM of any block size, get events; swap the model while it runs
load_release   read and verify a released model from a folder
Clips          a labelled collection of recordings
train_local    train a model on clips on this machine
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

from common.version import VERSION

# Read by flwr when it is imported: nothing here phones home.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

if TYPE_CHECKING:
    from common.data.clips import Clips
    from common.protocol.release import load_release
    from common.training.local import train_local
    from fl_client.listen.recognizer import Recognizer

__all__ = ["Clips", "Recognizer", "load_release", "train_local"]
__version__ = VERSION

_HOMES = {
    "Clips": "common.data.clips",
    "Recognizer": "fl_client.listen.recognizer",
    "load_release": "common.protocol.release",
    "train_local": "common.training.local",
}


def __getattr__(name: str) -> object:
    """Load each part when it is first used: a listener must not pay for torch."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'fedaudio' has no attribute '{name}'")
