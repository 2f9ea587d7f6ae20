"""What importing the audio modules brings along, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("module", ["reading", "stream", "mel", "front_end"])
def test_the_listener_s_modules_never_load_torch(module: str) -> None:
    assert run(f"import sys, common.audio.{module}; print('torch' in sys.modules)") == "False"


def test_reading_and_streaming_a_file_never_loads_torch(tmp_path: Path) -> None:
    import numpy as np
    import soundfile

    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros(44_100), 44_100)
    program = f"""
import sys
from pathlib import Path
from common.audio.front_end import LogMel
from common.audio.reading import read_audio
from common.audio.stream import StreamFrontEnd
print(StreamFrontEnd(LogMel()).feed(read_audio(Path({str(path)!r}))).shape, "torch" in sys.modules)
"""
    assert run(program) == "(98, 40) False"


def test_torchaudio_works_and_stays_as_installed() -> None:
    program = """
import hashlib, importlib.util
from pathlib import Path
folder = Path(importlib.util.find_spec("torchaudio").origin).parent
def state():
    files = (p for p in folder.rglob("*") if p.suffix in (".py", ".so"))
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
before = state()
import torch
from common.audio.torchaudio_import import import_torchaudio
torchaudio = import_torchaudio()
assert import_torchaudio() is torchaudio
import torchaudio as again
assert again is torchaudio
print(torchaudio.transforms.MelSpectrogram(center=False)(torch.randn(1, 16000)).isfinite().all().item())
print(state() == before)
"""
    assert run(program).split() == ["True", "True"]


def test_torchaudio_without_its_extension() -> None:
    program = """
import sys
class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == "torchaudio._extension":
            raise OSError("libcudart.so.13: cannot open shared object file")
sys.meta_path.insert(0, Broken())
import torch
from common.audio.torchaudio_import import import_torchaudio
torchaudio = import_torchaudio()
print(torchaudio.transforms.Spectrogram()(torch.randn(1, 16000)).shape[1])
try:
    torchaudio.functional.forced_align(torch.zeros(1, 4, 3), torch.zeros(1, 1, dtype=torch.int32))
except RuntimeError as error:
    print("libcudart" in str(error))
"""
    assert run(program).split() == ["201", "True"]


def test_missing_torchaudio_stays_an_import_error() -> None:
    program = """
import sys
sys.modules["torchaudio"] = None
from common.audio.torchaudio_import import import_torchaudio
try:
    import_torchaudio()
except ImportError:
    print("ImportError")
"""
    assert run(program) == "ImportError"
