"""Recorded sound for the listener's tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from common.audio.reading import read_audio
from fl_client.store import ModelStore


@pytest.fixture(scope="session")
def speech(shared_data: Path) -> NDArray[np.float32]:
    """About eight seconds of recorded words."""
    clips = sorted((shared_data / "fsdd").rglob("*.flac")) + sorted((shared_data / "fsdd").rglob("*.wav"))
    sound = np.concatenate([read_audio(clip) for clip in clips[::37][:24]])
    assert len(sound) > 6 * 16000
    return sound[: 8 * 16000]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def store(home: Path) -> ModelStore:
    return ModelStore(home / "models", home / "marks.json", home / "trial.json")
