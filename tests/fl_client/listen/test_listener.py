"""The listening process as it runs on a device."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from common.audio.reading import read_audio
from fl_client.listen.events import MAIN, Event
from fl_client.listen.listener import run_listener
from fl_client.listen.recognizer import Recognizer
from fl_client.listen.room import Room
from fl_client.listen.settings import CalibrationSettings, ListenSettings
from fl_client.listen.sources import Block, open_source
from fl_client.store import ModelStore
from tests.fl_client.listen.made_releases import make_release, make_task, resealed_files
from tests.made_manifests import put
from tests.processes import eventually

Sound = NDArray[np.float32]


@pytest.fixture
def recording(tmp_path: Path, speech: Sound) -> Path:
    soundfile.write(tmp_path / "speech.wav", speech, 16000, subtype="FLOAT")
    return tmp_path / "speech.wav"


def status(home: Path) -> dict[str, float]:
    try:
        facts: dict[str, float] = json.loads((home / "listener.json").read_bytes())
    except FileNotFoundError:
        return {}
    return facts


@pytest.fixture
def listen(home: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    children = []

    def start(source: str, *more: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "fl_client.listen", "--home", str(home), "--source", source, *more]
        children.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        return children[-1]

    yield start
    for child in children:
        child.kill()
        child.communicate()


def expected_events(sound: Sound) -> list[dict[str, object]]:
    return [asdict(event) for event in Recognizer(make_release(1).release).feed(sound)]


def facts(lines: bytes) -> list[tuple[object, object, object]]:
    return [(e["label"], e["end"], e["version"]) for e in map(json.loads, lines.splitlines())]


def test_a_file_is_listened_to_and_its_events_are_written_and_printed(
    home: Path,
    store: ModelStore,
    listen: Callable[..., subprocess.Popen[bytes]],
    recording: Path,
    speech: Sound,
) -> None:
    put(store, make_release(1).files)
    child = listen(f"file:{recording},fast")
    printed, _ = child.communicate(timeout=60)
    assert child.returncode == 0
    expected = [(e["label"], e["end"], e["version"]) for e in expected_events(speech)]
    assert len(expected) >= 3
    assert facts(printed) == facts((home / "events.jsonl").read_bytes()) == expected
    report = status(home)
    assert report["version"] == 1
    assert report["hops"] == make_task().front_end.frames(len(speech))
    assert report["events"] == len(expected)
    assert report["seconds"] == pytest.approx(len(speech) / 16000, abs=1e-3)
    assert report["dropped"] == report["doubled"] == 0
    assert 0 < report["rss_mb"] < 1000
    assert report["rtf"] > 0


def test_sound_comes_through_standard_input(
    store: ModelStore, listen: Callable[..., subprocess.Popen[bytes]], speech: Sound
) -> None:
    put(store, make_release(1).files)
    pcm = np.round(speech * 32767).astype("<i2")
    child = listen("stdin")
    printed, _ = child.communicate(pcm.tobytes() + b"\x01", timeout=60)
    assert child.returncode == 0
    expected = expected_events(pcm.astype(np.float32) / 32768)
    assert facts(printed) == [(e["label"], e["end"], e["version"]) for e in expected]


def test_a_running_process_takes_new_releases_refuses_bad_ones_and_ends_on_sigterm(
    home: Path, store: ModelStore, listen: Callable[..., subprocess.Popen[bytes]], recording: Path
) -> None:
    child = listen(f"file:{recording},loop")
    put(store, make_release(1).files)
    eventually(lambda: status(home).get("version") == 1, child)
    put(store, make_release(2, seed=1).files)
    eventually(lambda: status(home)["version"] == 2, child)
    put(store, resealed_files(make_release(3), graph=b"no graph"))
    eventually(lambda: status(home)["refused"] == 1, child)
    assert status(home)["version"] == 2
    put(store, make_release(4, seed=1).files)
    eventually(lambda: status(home)["version"] == 4, child)
    report = status(home)
    assert (report["swaps"], report["doubled"]) == (2, 0)
    assert report["dropped"] == 0 or report["overruns"] > 0  # a busy machine may read the sound too late
    assert report["max_gap_seconds"] > 0
    child.send_signal(signal.SIGTERM)
    assert child.wait(timeout=60) == 0


DEVICE = f"""
name = "kitchen"
server = "localhost:8650"
coordinator = "{"0" * 64}"

[listen]
level_seconds = 2
levels_csv = "levels.csv"

[listen.thresholds]
yes = 0.999999
nobody = 0.5

[[listen.alarms]]
name = "said no"
label = "no"
repeat_seconds = 0
"""


def test_the_process_listens_as_device_toml_says(
    home: Path, store: ModelStore, listen: Callable[..., subprocess.Popen[bytes]], recording: Path
) -> None:
    put(store, make_release(1).files)
    (home / "device.toml").write_text(DEVICE)
    child = listen(f"file:{recording},fast", "--levels")
    printed, _ = child.communicate(timeout=60)
    assert child.returncode == 0
    told = [json.loads(line) for line in printed.splitlines()]
    events, alarms, levels = ([one for one in told if one["type"] == k] for k in ("event", "alarm", "level"))
    usual = [event["label"] for event in expected_events(read_audio(recording))]
    assert "yes" in usual
    assert "yes" not in [event["label"] for event in events]
    assert [one["label"] for one in alarms] == [one["label"] for one in events if one["label"] == "no"] != []
    assert [(one["start"], one["end"]) for one in levels[:3]] == [(0, 2), (2, 4), (4, 6)]
    assert all(one["unit"] == "dBFS(A)" and -60 < one["laeq"] < 0 for one in levels)
    assert sum(sum(one["labels"].values()) for one in levels) > 0
    assert len((home / "levels.csv").read_text().splitlines()) == 1 + len(levels)


def test_a_fault_in_device_toml_is_told(home: Path, store: ModelStore) -> None:
    put(store, make_release(1).files)
    (home / "device.toml").write_text(DEVICE.replace("level_seconds = 2", "levle_seconds = 2"))
    command = [sys.executable, "-m", "fl_client.listen", "--home", str(home), "--source", "stdin"]
    done = subprocess.run(command, input=b"", capture_output=True, check=False)
    assert (done.returncode, b"level_seconds" in done.stderr) == (2, True)


def test_thresholds_of_another_version_are_warned_of(
    store: ModelStore, recording: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(store, make_release(1).files)
    for version in (1, 3):
        owner = ListenSettings(thresholds={"yes": 0.5}, calibration=CalibrationSettings(version=version))
        run_listener(
            [Room(MAIN, store, settings=owner)],
            open_source(f"file:{recording},fast"),
            lambda message: None,
            status_path=None,
            stop=threading.Event(),
        )
        assert ("calibrate again" in caplog.text) == (version != 1)
    assert "measured with version 3, not with version 1" in caplog.text


def test_labels_that_a_release_never_reports_are_warned_of_at_each(
    store: ModelStore, recording: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(store, make_release(1).files)
    owner = ListenSettings(thresholds={"nobody": 0.5, "background": 0.5, "yes": 0.5})
    run_listener(
        [Room(MAIN, store, settings=owner)],
        open_source(f"file:{recording},fast"),
        lambda message: None,
        status_path=None,
        stop=threading.Event(),
    )
    assert "version 1 never reports ['background', 'nobody']" in caplog.text


def test_sigterm_ends_a_process_that_waits_for_its_first_release(
    home: Path, listen: Callable[..., subprocess.Popen[bytes]], recording: Path
) -> None:
    child = listen(f"file:{recording},loop")
    eventually(home.is_dir, child)  # made when the signal is already handled
    child.send_signal(signal.SIGTERM)
    assert child.wait(timeout=60) == 0


def test_an_error_is_two_sentences_and_a_status(home: Path, store: ModelStore, tmp_path: Path) -> None:
    put(store, make_release(1).files)
    for source, code, returned in (("radio", "FA-4203", 5), (f"file:{tmp_path}/none.wav", "FA-1001", 3)):
        command = [sys.executable, "-m", "fl_client.listen", "--home", str(home), "--source", source]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == returned
        assert code in done.stderr
        assert "Traceback" not in done.stderr


def test_the_process_goes_when_its_parent_dies(home: Path, store: ModelStore, recording: Path) -> None:
    put(store, make_release(1).files)
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import subprocess, sys; print(subprocess.Popen(sys.argv[1:]).pid, flush=True); sys.stdin.read()",
            *(sys.executable, "-m", "fl_client.listen", "--home", str(home)),
            *("--source", f"file:{recording},loop", "--with-parent"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    try:
        eventually(lambda: status(home).get("hops", 0) > 0)
        parent.kill()
        # It holds the other end of the pipe until it is gone.
        rest = parent.stdout.read()
    finally:
        parent.kill()
        parent.communicate()
        if (
            Path(f"/proc/{pid}/cmdline").exists()
            and b"fl_client.listen" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ):
            os.kill(pid, signal.SIGKILL)
    assert isinstance(rest, bytes)
    assert status(home)["doubled"] == 0


def test_listening_loads_nothing_heavy(home: Path, store: ModelStore, recording: Path) -> None:
    """A whole run, a swap included, in a process of its own."""
    put(store, make_release(1).files)
    code = """
import sys, threading
import fl_client.listen.__main__ as listener
status = listener.main(["--home", sys.argv[1], "--source", "file:" + sys.argv[2] + ",fast"])
from fl_client.listen.recognizer import Recognizer
from fl_client.store import ModelStore
release = ModelStore(listener.DeviceHome(listener.Path(sys.argv[1])).models).load_current()
recognizer = Recognizer(release)
recognizer.swap(release)
heavy = {"torch", "torchaudio", "flwr", "cryptography", "httpx", "sklearn", "onnx", "scipy"}
heavy &= set(sys.modules)
print("loaded:", sorted(heavy), "status:", status)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(home), str(recording)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "loaded: [] status: 0"


class Endless:
    """Recorded words over and over as fast as they are read, until a condition holds."""

    def __init__(self, sound: Sound, over: Callable[[], bool]) -> None:
        self._sound = sound
        self._over = over
        self._at = 0

    def __enter__(self) -> Endless:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read(self) -> Block | None:
        if self._over():
            return None
        self._at = (self._at + 1600) % (len(self._sound) - 1600)
        return Block(self._sound[self._at : self._at + 1600])


def test_the_newest_release_that_can_be_run_is_the_first(store: ModelStore, recording: Path) -> None:
    put(store, make_release(1).files)
    put(store, resealed_files(make_release(2), graph=b"no graph"))
    versions: set[int] = set()
    counters = run_listener(
        [Room(MAIN, store)],
        open_source(f"file:{recording},fast"),
        lambda event: versions.add(event.version),
        status_path=None,
        stop=threading.Event(),
    )
    assert versions == {1}
    assert counters.events > 0


def test_lost_sound_reaches_the_counters_and_the_times(store: ModelStore, speech: Sound) -> None:
    put(store, make_release(1).files)
    pieces = iter([Block(speech[:32000]), Block(speech[32000:], lost=1600, overruns=1), None])

    class Gappy(Endless):
        def read(self) -> Block | None:
            return next(pieces)

    events: list[Event] = []
    source = Gappy(speech, lambda: False)
    counters = run_listener(
        [Room(MAIN, store)], source, events.append, status_path=None, stop=threading.Event()
    )
    assert (counters.dropped, counters.overruns, counters.doubled) == (10, 1, 0)
    assert events[-1].end == pytest.approx(expected_events(speech)[-1]["end"] + 0.1)


def test_a_status_that_cannot_be_written_does_not_stop_the_listening(
    store: ModelStore, speech: Sound, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(store, make_release(1).files)
    source = Endless(speech, lambda: "no status is written" in caplog.text)
    counters = run_listener(
        [Room(MAIN, store)],
        source,
        lambda event: None,
        status_path=tmp_path / "gone" / "listener.json",
        stop=threading.Event(),
    )
    assert counters.hops > 0


def test_stop_ends_the_listening(store: ModelStore, speech: Sound) -> None:
    put(store, make_release(1).files)
    stop = threading.Event()
    heard = 0

    def stop_after_three(event: Event) -> None:
        nonlocal heard
        heard += 1
        if heard == 3:
            stop.set()

    counters = run_listener(
        [Room(MAIN, store)], Endless(speech, lambda: False), stop_after_three, status_path=None, stop=stop
    )
    assert counters.events >= 3
