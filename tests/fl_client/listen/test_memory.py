"""What the start of the listener needed is given back, and nothing that is needed later."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from common.protocol.release import write_release
from fl_client.listen.memory import resident
from tests.fl_client.listen.made_releases import make_release

CHILD = """
import sys
from pathlib import Path
import numpy as np
from fl_client.listen.memory import give_back, resident
from fl_client.listen.recognizer import Recognizer
from common.protocol.release import load_release

release = load_release(Path(sys.argv[1]))
sound = np.sin(np.arange(32000, dtype=np.float32) ** 2)

def heard():
    recognizer = Recognizer(release)
    recognizer.feed(sound)
    return recognizer.scores

before = heard()
held = resident()
give_back()
given = held - resident()
assert heard() == before
print(given)
"""


def test_resident_is_what_the_system_says() -> None:
    assert resident() == pytest.approx(psutil.Process().memory_info().rss, rel=0.2)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is given back on Linux only")
def test_what_is_given_back_is_not_missed(tmp_path: Path) -> None:
    """A process that has let go scores as before, a new session included."""
    write_release(tmp_path / "1", make_release(1).files)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path / "1")], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) > 5_000_000
