"""A release that brings the listener down does so once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from fl_client.listen.events import MAIN
from fl_client.listen.following import Follower
from fl_client.listen.room import Room
from fl_client.listen.trials import Trials
from fl_client.store import ModelStore
from tests.fl_client.listen.made_faults import BANG, faulty_files
from tests.fl_client.listen.made_releases import make_release
from tests.made_manifests import put
from tests.processes import eventually

Sound = NDArray[np.float32]


@pytest.fixture
def listen(home: Path, tmp_path: Path, speech: Sound) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    children = []
    soundfile.write(tmp_path / "speech.wav", speech, 16000, subtype="FLOAT")

    def start() -> subprocess.Popen[bytes]:
        (home / "listener.json").unlink(missing_ok=True)
        command = [sys.executable, "-m", "fl_client.listen", "--home", str(home)]
        command += ["--source", f"file:{tmp_path / 'speech.wav'},loop"]
        children.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
        return children[-1]

    yield start
    for child in children:
        child.kill()
        child.wait()


def version(home: Path) -> int | None:
    try:
        facts: dict[str, int] = json.loads((home / "listener.json").read_bytes())
    except FileNotFoundError:
        return None
    return facts["version"]


def swaps(home: Path) -> list[tuple[str, int, int, str]]:
    if not (home / "events.jsonl").exists():
        return []
    lines = [json.loads(line) for line in (home / "events.jsonl").read_text().splitlines()]
    return [
        (line["outcome"], line["from_version"], line["to_version"], line["reason"])
        for line in lines
        if line["type"] == "swap"
    ]


def test_after_a_kill_during_the_trial_the_version_before_listens_and_says_so(
    home: Path, store: ModelStore, listen: Callable[[], subprocess.Popen[bytes]]
) -> None:
    put(store, make_release(1).files)
    child = listen()
    eventually(lambda: version(home) == 1, child)
    put(store, make_release(2, seed=1).files)
    eventually(lambda: version(home) == 2, child)
    child.kill()
    child.wait()
    for _ in range(2):  # nor does the next restart try it again
        child = listen()
        eventually(lambda: version(home) is not None, child)
        assert version(home) == 1
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=60) == 0
    reason = "the listener ended while it was on trial"
    assert swaps(home) == [("swapped", 1, 2, ""), ("rolled-back", 2, 1, reason)]
    # The next version is given its own trial; ended by its owner, the listener goes on with it.
    child = listen()
    eventually(lambda: version(home) == 1, child)
    put(store, make_release(3, seed=1).files)
    eventually(lambda: version(home) == 3, child)
    child.send_signal(signal.SIGTERM)
    assert child.wait(timeout=60) == 0
    assert not (home / "trial.json").exists()
    child = listen()
    eventually(lambda: version(home) == 3, child)
    assert (home / "trial.json").exists() is False


def test_what_failed_is_the_last_to_be_taken(store: ModelStore, home: Path) -> None:
    put(store, make_release(1).files)
    put(store, make_release(2).files)
    stamp = store.stamp()
    assert stamp is not None
    path = home / "trial.json"
    Trials(path).begin(2, stamp)
    assert path.stat().st_mode & 0o777 == 0o600

    def first() -> int:
        found = Follower(Room(MAIN, store, trial_path=path)).begin()
        assert found is not None
        return found.version

    assert first() == 1
    assert first() == 1
    (store.root / "00000001" / "graph.onnx").write_bytes(b"damaged")
    assert first() == 2  # better than none
    put(store, make_release(3).files)
    assert first() == 3


@pytest.mark.parametrize("damage", [b"", b"{", b'{"stamp": [1], "version": 2}', b"\xff\xfe"])
def test_a_damaged_note_is_passed_over(damage: bytes, store: ModelStore, home: Path) -> None:
    put(store, make_release(1).files)
    (home / "trial.json").write_bytes(damage)
    found = Follower(Room(MAIN, store, trial_path=home / "trial.json")).begin()
    assert found is not None
    assert found.version == 1


def test_a_release_taken_back_in_a_running_listener_is_not_tried_again(
    home: Path, store: ModelStore, tmp_path: Path, speech: Sound
) -> None:
    """The process lives on; the note is there for the next one."""
    put(store, make_release(1).files)
    folder = tmp_path / "sound"
    folder.mkdir()
    soundfile.write(folder / "speech.wav", speech, 16000, subtype="FLOAT")
    command = [sys.executable, "-m", "fl_client.listen", "--home", str(home), "--source"]
    child = subprocess.Popen([*command, f"dir:{folder},loop"], stdout=subprocess.DEVNULL)
    try:
        eventually(lambda: version(home) == 1, child)
        put(store, faulty_files(make_release(2, seed=1), "fails"))
        eventually(lambda: version(home) == 2, child)
        # Not before, for a release that fails beside the one at work is refused.
        soundfile.write(tmp_path / "bang.wav", BANG, 16000, subtype="FLOAT")
        (tmp_path / "bang.wav").rename(folder / "bang.wav")
        eventually(lambda: ("rolled-back", 2, 1) in [told[:3] for told in swaps(home)], child)
        eventually(lambda: json.loads((home / "trial.json").read_bytes())["failed"] is not None, child)
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=60) == 0
    finally:
        child.kill()
        child.wait()
    assert version(home) == 1
    trials = Trials(home / "trial.json")
    assert trials.died() is None
    assert trials.failed(2, store.stamp())
