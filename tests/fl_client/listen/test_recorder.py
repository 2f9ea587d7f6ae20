"""Keeping the sound of what is heard: real listeners on files, real folders, disks that fail."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tomli_w
from numpy.typing import NDArray

from common.audio.reading import read_audio
from common.data.clips import Clips
from common.data.features import load_features
from common.data.synthetic.corpus import make_corpus
from common.data.synthetic.streams import make_stream
from fl_client.feedback import give_feedback
from fl_client.heard import Heard, HeardFolder
from fl_client.home import DeviceHome
from fl_client.keep_settings import KeepSettings
from fl_client.listen.events import Event
from fl_client.listen.recognizer import Recognizer
from fl_client.listen.recorder import WAITING, Recorder
from fl_client.store import ModelStore
from tests.fl_client.listen.made_releases import make_release, make_task
from tests.made_manifests import put
from tests.processes import ROOT, wait_for

SECOND = np.arange(16_000, dtype=np.int16)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> NDArray[np.float32]:
    """Twenty seconds of pseudo-words, as a 16-bit file holds them."""
    corpus = make_corpus(tmp_path_factory.mktemp("corpus"), kind="words", voices=2, labels=3, takes=1, seed=3)
    clips = [(read_audio(file), file.parent.name) for file in sorted(corpus.glob("*/*.flac"))]
    sound, _ = make_stream(clips, 20.0, np.random.default_rng(1))
    return (np.round(sound * 32767) / 32768).astype(np.float32)


@pytest.fixture
def home(tmp_path: Path, words: NDArray[np.float32]) -> DeviceHome:
    home = DeviceHome(tmp_path / "home")
    put(ModelStore(home.models, home.root / "marks.json"), make_release(1).files)
    soundfile.write(tmp_path / "words.wav", words, 16_000, subtype="PCM_16")
    return home


def start(home: DeviceHome, source: str, **keep: object) -> subprocess.Popen[bytes]:
    device = {"name": "kitchen", "server": "127.0.0.1:9", "coordinator": "0" * 64, "keep": keep}
    home.config.write_text(tomli_w.dumps(device))
    command = [sys.executable, "-m", "fl_client.listen", "--home", str(home.root), "--source", source]
    return subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)


def listen(home: DeviceHome, **keep: object) -> list[dict[str, object]]:
    """Hear the words to their end, and give the events."""
    child = start(home, f"file:{home.root.parent / 'words.wav'},fast", **keep)
    printed, _ = child.communicate(timeout=60)
    assert child.returncode == 0
    return [json.loads(line) for line in printed.splitlines()]


def status(home: DeviceHome) -> dict[str, float]:
    facts: dict[str, float] = json.loads(home.listener_status.read_bytes())
    return facts


def heard(number: int, **changes: object) -> Heard:
    facts = {"id": f"{number:016x}", "kind": "event", "label": "yes", "score": 0.9, "version": 1}
    return Heard.model_validate(facts | {"time": datetime.now(UTC)} | changes)


def test_no_sound_is_kept_unless_the_owner_says_so(home: DeviceHome) -> None:
    assert listen(home)
    assert not home.heard.exists()
    assert "sounds_kept" not in status(home)


def test_each_event_is_kept_with_the_very_sound_it_was_decided_on(
    home: DeviceHome, words: NDArray[np.float32]
) -> None:
    events = listen(home, events=True)
    assert len(events) >= 3
    folder = HeardFolder(home.heard)
    assert [one.id for one in folder] == [event["id"] for event in events]
    for one, event in zip(folder, events, strict=True):
        assert (one.label, one.score, one.version) == (event["label"], event["score"], event["version"])
        assert one.kind == "event"
        first, last = (round(float(str(event[name])) * 16_000) for name in ("start", "end"))
        samples = folder.samples(one.id)
        assert samples is not None
        np.testing.assert_array_equal(samples, np.round(words[first:last] * 32768))
    assert {path.stat().st_mode & 0o777 for path in home.heard.iterdir()} == {0o600}
    assert home.heard.stat().st_mode & 0o777 == 0o700
    assert (status(home)["sounds_kept"], status(home)["sounds_lost"]) == (len(events), 0)


def test_what_was_heard_is_judged_and_learned_from(home: DeviceHome, words: NDArray[np.float32]) -> None:
    newest = listen(home, events=True)[-1]
    given = give_feedback(home, "last", "right")
    assert (given.event, given.label) == (newest["id"], newest["label"])
    (clip,) = Clips.load(home.clips)
    assert (clip.label, clip.group) == (newest["label"], newest["id"])
    first, last = (round(float(str(newest[name])) * 16_000) for name in ("start", "end"))
    np.testing.assert_array_equal(read_audio(clip.path), words[first:last])
    data = load_features(Clips.load(home.clips), make_task(), home.cache)
    assert data.labels.tolist() == [make_task().labels.index(clip.label)]


def test_the_recognizer_cuts_the_right_samples_also_after_a_loss(words: NDArray[np.float32]) -> None:
    recognizer = Recognizer(make_release(1).release)
    for begin in range(0, 13 * 16_000, 4_000):
        recognizer.feed(words[begin : begin + 4_000])
    np.testing.assert_array_equal(recognizer.sound(11.9, 13.0), words[190_400:208_000])
    assert len(recognizer.sound(0.0, 0.5)) == 0
    assert len(recognizer.sound(12.5, 14.0)) == 8_000
    recognizer.skip(16_000)
    recognizer.feed(words[208_000:224_000])
    np.testing.assert_array_equal(recognizer.sound(14.25, 15.0), words[212_000:224_000])


def test_windows_are_kept_when_the_model_is_sure_and_not_too_often(home: DeviceHome) -> None:
    listen(home, self_training=True, windows_per_hour=3600, least_score=0.6)
    windows = list(HeardFolder(home.heard))
    assert 2 <= len(windows) <= 20
    assert {one.kind for one in windows} == {"window"}
    assert all(one.score >= 0.6 and one.label != "background" for one in windows)
    samples = [HeardFolder(home.heard).samples(one.id) for one in windows]
    assert {len(one) for one in samples if one is not None} == {make_task().clip_samples}
    HeardFolder(home.heard).clear()
    listen(home, self_training=True, windows_per_hour=1, least_score=0.6)
    assert len(list(HeardFolder(home.heard))) == 1
    HeardFolder(home.heard).clear()
    listen(home, self_training=True, windows_per_hour=3600, least_score=0.9999)
    assert list(HeardFolder(home.heard)) == []


def test_a_window_tells_which_event_was_reported_in_it(home: DeviceHome) -> None:
    events = listen(home, events=True, self_training=True, windows_per_hour=3600, least_score=0.6)
    windows = [one for one in HeardFolder(home.heard) if one.kind == "window"]
    assert {one.event for one in windows if one.event} <= {str(event["id"]) for event in events}
    assert any(one.event for one in windows)


def test_the_oldest_make_room_and_the_old_go(tmp_path: Path) -> None:
    folder = HeardFolder(tmp_path / "heard")
    now = datetime.now(UTC)
    for number in range(10):
        folder.add(heard(number, time=now - timedelta(days=number)), SECOND)
    size = sum(path.stat().st_size for path in (tmp_path / "heard").iterdir())
    assert folder.trim(size, 100) == size
    assert folder.trim(size, 6.5) <= size
    assert [int(one.id, 16) for one in folder] == [6, 5, 4, 3, 2, 1, 0]
    assert folder.trim(100_000, 100) <= 100_000
    assert [int(one.id, 16) for one in folder] == [2, 1, 0]
    assert len(list((tmp_path / "heard").iterdir())) == 6


def test_the_bounds_hold_while_it_listens_and_when_nothing_is_kept_any_more(home: DeviceHome) -> None:
    listen(home, self_training=True, events=True, windows_per_hour=3600, least_score=0.6, max_mb=0.15)
    sizes = [path.stat().st_size for path in home.heard.iterdir()]
    assert 32_000 < sum(sizes) <= 150_000
    HeardFolder(home.heard).add(heard(1, time=datetime.now(UTC) - timedelta(days=2)), SECOND)
    listen(home, max_days=1.0)
    assert HeardFolder(home.heard).find(f"{1:016x}") is None
    assert list(HeardFolder(home.heard))


def test_a_sound_that_was_cut_off_or_changed_is_none(tmp_path: Path) -> None:
    folder = HeardFolder(tmp_path)
    for number in range(3):
        folder.add(heard(number), SECOND)
    paths = [folder.sound(f"{number:016x}") for number in range(3)]
    paths[0].write_bytes(paths[0].read_bytes()[:20_000])
    paths[1].with_suffix(".json").unlink()
    assert [int(one.id, 16) for one in folder] == [2]
    assert folder.find("../../etc/passwd") is None
    assert folder.samples("0" * 16) is None


def test_a_killed_listener_leaves_no_half_sound_and_the_next_one_cleans_up(home: DeviceHome) -> None:
    for _ in range(4):
        count = len(list(HeardFolder(home.heard)))
        source = f"file:{home.root.parent / 'words.wav'},fast,loop"
        child = start(home, source, events=True, self_training=True, windows_per_hour=3600, least_score=0.5)
        wait_for(lambda count=count: len(list(home.heard.glob("*.wav"))) > count, "a sound")
        child.send_signal(signal.SIGKILL)
        child.communicate()
    folder = HeardFolder(home.heard)
    whole = list(folder)
    assert whole
    for one in whole:
        samples = folder.samples(one.id)
        assert samples is not None
        assert len(samples) > 15_000
    rest = (home.heard / ".0123.wav.tmp", folder.sound("f" * 16))
    for file in rest:
        file.write_bytes(b"RIFF")
        os.utime(file, (1, 1))
    folder.trim(1e9, 100)
    assert not any(file.exists() for file in rest)
    assert list(folder) == whole


def test_a_full_disk_costs_the_sounds_and_not_the_listening(home: DeviceHome) -> None:
    home.root.mkdir(exist_ok=True)
    home.heard.write_text("a file in the place of the folder")
    events = listen(home, events=True)
    assert len(events) >= 3
    assert (status(home)["sounds_kept"], status(home)["sounds_lost"]) == (0, len(events))


def test_a_slow_disk_does_not_hold_up_the_listening(tmp_path: Path, words: NDArray[np.float32]) -> None:
    disk = threading.Event()

    class Slow(HeardFolder):
        def add(self, heard: Heard, samples: NDArray[np.int16]) -> None:
            assert disk.wait(60)
            super().add(heard, samples)

    recognizer, folder = Recognizer(make_release(1).release), Slow(tmp_path / "heard")
    recognizer.feed(words[:32_000])
    event = Event("yes", 0.9, 0.5, 1.5, 1)
    with Recorder(folder, KeepSettings(events=True)) as recorder:
        for number in range(3 * WAITING):
            recorder.keep(f"{number:016x}", event, recognizer)
        lost = recorder.counters["sounds_lost"]
        assert 2 * WAITING - 1 <= lost <= 2 * WAITING
        disk.set()
    assert recorder.counters == {"sounds_kept": 3 * WAITING - lost, "sounds_lost": lost}
    assert len(list(folder)) == 3 * WAITING - lost


def test_an_event_that_is_not_in_the_log_is_not_kept(tmp_path: Path, words: NDArray[np.float32]) -> None:
    recognizer = Recognizer(make_release(1).release)
    recognizer.feed(words[:32_000])
    with Recorder(HeardFolder(tmp_path / "heard"), KeepSettings(events=True)) as recorder:
        recorder.keep(None, Event("yes", 0.9, 0.5, 1.5, 1), recognizer)
    assert recorder.counters == {"sounds_kept": 0, "sounds_lost": 0}
