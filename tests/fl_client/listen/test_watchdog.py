"""A graph that does not come to an end costs the listener a restart, and the release its place."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from common.protocol.release import Manifest
from fl_client.listen import watchdog
from fl_client.listen.trials import read_note
from fl_client.store import ModelStore
from tests.fl_client.listen.made_faults import BANG, faulty_files
from tests.fl_client.listen.made_releases import make_release
from tests.made_manifests import put
from tests.processes import ROOT, eventually, wait_for

Sound = NDArray[np.float32]

LISTEN = """
import sys, threading
from pathlib import Path
from fl_client.listen import watchdog
from fl_client.listen.limits import SwapLimits
from fl_client.listen.listener import run_listener
from fl_client.listen.room import Room
from fl_client.listen.sources import open_source
from fl_client.store import ModelStore

watchdog.POLL_SECONDS, watchdog.POLLS = 0.5, 8
home = Path(sys.argv[1])
run_listener(
    [Room("main", ModelStore(home / "models"), trial_path=home / "trial.json")],
    open_source(sys.argv[2]),
    lambda message: None,
    status_path=home / "listener.json",
    stop=threading.Event(),
    limits=SwapLimits(shadow_seconds=1e6),
)
"""


@pytest.fixture
def sounds(tmp_path: Path, speech: Sound) -> Path:
    folder = tmp_path / "sounds"
    folder.mkdir()
    soundfile.write(folder / "speech.wav", speech[:32_000], 16_000, subtype="FLOAT")
    return folder


def add_bang(sounds: Path) -> None:
    soundfile.write(sounds.parent / "bang.wav", BANG, 16_000, subtype="FLOAT")
    (sounds.parent / "bang.wav").rename(sounds / "bang.wav")


@pytest.fixture
def listen(home: Path, sounds: Path) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    children = []

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", LISTEN, str(home), f"dir:{sounds},loop"]
        children.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=ROOT))
        return children[-1]

    yield start
    for child in children:
        child.kill()
        child.wait()


def seconds(home: Path) -> float:
    try:
        return float(json.loads((home / "listener.json").read_bytes())["seconds"])
    except FileNotFoundError:
        return 0.0


def failed(home: Path) -> list[int]:
    return [one.version for one in read_note(home / "trial.json").failed]


def test_a_release_that_hangs_at_work_is_left(
    home: Path, store: ModelStore, sounds: Path, listen: Callable[[], subprocess.Popen[bytes]]
) -> None:
    put(store, make_release(1).files)
    put(store, faulty_files(make_release(2), "hangs"))
    add_bang(sounds)
    assert listen().wait(timeout=120) == watchdog.HUNG
    assert failed(home) == [2]
    (home / "listener.json").unlink()
    child = listen()
    eventually(lambda: seconds(home) > 3, child)  # which is after the bang
    assert json.loads((home / "listener.json").read_bytes())["version"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("when", ["prepared", "shadowing"])
def test_a_release_that_hangs_before_it_is_at_work_is_left(
    when: str, home: Path, store: ModelStore, sounds: Path, listen: Callable[[], subprocess.Popen[bytes]]
) -> None:
    put(store, make_release(1).files)
    child = listen()
    eventually(lambda: seconds(home) > 0, child)
    if when == "prepared":
        add_bang(sounds)
        heard = seconds(home)
        eventually(lambda: seconds(home) > heard + 6, child)  # it will be shown what was heard
    put(store, faulty_files(make_release(2, seed=1), "hangs"))
    wait_for(lambda: (read_note(home / "trial.json").on_trial or failed(home)) not in (None, []), "a trial")
    if when == "shadowing":
        add_bang(sounds)
    assert child.wait(timeout=120) == watchdog.HUNG
    assert failed(home) == [2]


def test_runs_that_end_are_none_of_its_business(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "POLL_SECONDS", 0.001)
    monkeypatch.setattr(watchdog, "POLLS", 50)
    told: list[int] = []
    left, done, go_on = threading.Event(), threading.Event(), threading.Event()
    manifests = {version: make_release(version).release.manifest for version in (1, 2)}

    def blame(manifest: Manifest) -> None:
        told.append(manifest.version)

    def leave(status: int) -> None:
        assert status == watchdog.HUNG
        left.set()

    def hang() -> None:
        with watchdog.running(manifests[2]):
            assert go_on.wait(60)

    watchdog.watch(blame, done, leave)
    for _ in range(20_000):
        with watchdog.running(manifests[1]):
            pass
    assert not told
    thread = threading.Thread(target=hang)
    thread.start()
    done.set()  # it stays for who hangs at the end
    assert left.wait(60)
    go_on.set()
    thread.join()
    assert told == [2]
