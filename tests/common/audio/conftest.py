"""Real recordings for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.audio.mel import Array
from common.audio.reading import read_audio

RECORDINGS = (
    "arabic_speech_commands/dataset/yes/00000001_NO_01.flac",
    "arabic_speech_commands/dataset/stop/00000029_NO_03.flac",
    "fsdd/recordings/7_jackson_3.flac",
    "fsdd/recordings/7_theo_3.flac",
    "esc10/001 - Dog bark/1-100032-A.flac",  # ends in seconds of exact zeros
    "esc10/002 - Rain/1-17367-A.flac",
)


@pytest.fixture(scope="session", params=RECORDINGS, ids=lambda name: Path(name).stem)
def recording(request: pytest.FixtureRequest, shared_data: Path) -> Array:
    """Samples of a recording: speech at -20 and at -42 dBFS, a bark between silences, rain."""
    return read_audio(shared_data / request.param)
