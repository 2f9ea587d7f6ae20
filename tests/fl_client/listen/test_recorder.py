"""Keeping the sound of what is heard: real listeners on files, real folders, disks that fail."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import signal
import subprocess
import sys
import threading
from collections import deque
from contextlib import suppress
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
from fl_client.listen.ring import Rows
from fl_client.listen.settings import ListenSettings
from fl_client.listen.trigger import Detector
from fl_client.store import ModelStore
from tests.fl_client.kept_sounds import heard
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


def start(home: DeviceHome, options: str, limit: str = ":", **keep: object) -> subprocess.Popen[bytes]:
    """A listener that hears the words.

    Args:
        limit: what the shell sets it.
    """
    device = {"name": "kitchen", "server": "127.0.0.1:9", "coordinator": "0" * 64, "keep": keep}
    home.config.write_text(tomli_w.dumps(device))
    source = f"file:{home.root.parent / 'words.wav'},{options}"
    command = [sys.executable, "-m", "fl_client.listen", "--home", str(home.root), "--source", source]
    shell = ["bash", "-c", f"{limit}; exec {shlex.join(command)}"]
    return subprocess.Popen(shell, stdout=subprocess.PIPE, cwd=ROOT)


def listen(home: DeviceHome, limit: str = ":", **keep: object) -> list[dict[str, object]]:
    """Hear the words to their end, and give the events."""
    child = start(home, "fast", limit, **keep)
    printed, _ = child.communicate(timeout=60)
    assert child.returncode == 0
    return [json.loads(line) for line in printed.splitlines()]


def status(home: DeviceHome) -> dict[str, float]:
    facts: dict[str, float] = json.loads(home.listener_status.read_bytes())
    return facts


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


class TestWindows:
    """For self-training."""

    def test_no_more_than_are_wished_and_none_the_model_is_not_sure_of(self, home: DeviceHome) -> None:
        listen(home, self_training=True, windows_per_hour=3600, least_score=0.6)
        windows = list(HeardFolder(home.heard))
        assert 2 <= len(windows) <= 20
        assert {one.kind for one in windows} == {"window"}
        assert all(one.score >= 0.6 and one.label != "background" for one in windows)
        samples = [HeardFolder(home.heard).samples(one.id) for one in windows]
        assert {len(one) for one in samples if one is not None} == {make_task().clip_samples}
        HeardFolder(home.heard).clear()
        listen(home, self_training=True, windows_per_hour=3600, least_score=0.9999)
        assert list(HeardFolder(home.heard)) == []

    def test_a_restart_does_not_make_them_more(self, home: DeviceHome) -> None:
        for _ in range(2):
            listen(home, self_training=True, windows_per_hour=1, least_score=0.6)
        assert len(list(HeardFolder(home.heard))) == 1

    @pytest.mark.parametrize(("hours", "more"), [(-2, 1), (-0.5, 0), (50, 0)])
    def test_the_last_may_be_of_long_ago_or_of_a_clock_that_was_ahead(
        self, home: DeviceHome, hours: float, more: int
    ) -> None:
        last = heard(1, kind="window", time=datetime.now(UTC) + timedelta(hours=hours))
        HeardFolder(home.heard).add(last, SECOND)
        listen(home, self_training=True, windows_per_hour=1, least_score=0.6)
        assert len(list(HeardFolder(home.heard))) == 1 + more


class Noting(Recognizer):
    """Notes which sounds it is asked for, in samples."""

    def __init__(self, owner: ListenSettings) -> None:
        super().__init__(make_release(1).release, owner)
        self.cuts: list[tuple[int, int]] = []

    def sound(self, start: float, end: float) -> Rows:
        self.cuts.append((round(start * 16_000), round(end * 16_000)))
        return super().sound(start, end)


class NotingFolder(HeardFolder):
    """Notes what was added."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.added: list[Heard] = []

    def add(self, heard: Heard, samples: NDArray[np.int16]) -> bool:
        self.added.append(heard)
        return super().add(heard, samples)


def joined(places: dict[str, tuple[int, int]]) -> set[frozenset[str]]:
    """Names of the sounds that overlap, be it by way of others between them."""
    found: list[tuple[set[str], int]] = []
    for name, (start, end) in sorted(places.items(), key=lambda item: item[1]):
        if found and start < found[-1][1]:
            names, until = found.pop()
            found.append((names | {name}, max(until, end)))
        else:
            found.append(({name}, end))
    return {frozenset(names) for names, _ in found}


STRICT = {"yes": 0.97, "no": 0.97, "stop": 0.97}


@pytest.mark.parametrize(
    "owner",
    [ListenSettings(), ListenSettings(thresholds=STRICT), ListenSettings(smoothing_seconds=0.3)],
    ids=["as released", "thresholds", "smoothing"],
)
def test_windows_are_what_could_be_reported_and_all_that_overlaps_is_one_stretch(
    tmp_path: Path, words: NDArray[np.float32], owner: ListenSettings
) -> None:
    recognizer, folder = Noting(owner), NotingFolder(tmp_path / "heard")
    recent: deque[dict[str, float]] = deque(maxlen=round((owner.smoothing_seconds or 0.01) * 100))
    means = []
    keep = KeepSettings(events=True, self_training=True, windows_per_hour=3600, least_score=0.1)
    with Recorder(folder, keep) as recorder:
        for end in range(160, 2 * len(words), 160):
            for event in recognizer.feed(np.tile(words, 2)[end - 160 : end]):
                recorder.keep(secrets.token_hex(8), event, recognizer)
            recent.append(recognizer.scores)
            recorder.keep_window(recognizer)
            means += [
                {label: np.mean([scores[label] for scores in recent]) for label in recent[0]}
                for _ in recognizer.cuts[len(means) :]
            ]
            wait_for(lambda: recorder.counters["sounds_kept"] == len(recognizer.cuts), "the disk")
    windows = [(one, mean) for one, mean in zip(folder.added, means, strict=True) if one.kind == "window"]
    assert len(windows) >= 3
    for one, mean in windows:
        assert one.label == max(mean, key=lambda label: mean[label]) != "background"
        assert one.score == pytest.approx(mean[one.label], abs=1e-6)
        assert one.score >= owner.thresholds.get(one.label, make_task().trigger.threshold)
    places = {one.id: cut for one, cut in zip(folder.added, recognizer.cuts, strict=True)}
    stretches: dict[str, set[str]] = {}
    for one in folder:
        stretches.setdefault(one.stretch, set()).add(one.id)
    assert {frozenset(names) for names in stretches.values()} == joined(places)
    kinds = {one.id: one.kind for one in folder}
    assert any({kinds[name] for name in names} == {"event", "window"} for names in stretches.values())
    assert len(stretches) > 1


def test_sounds_that_share_what_was_heard_before_a_loss_are_one_stretch(tmp_path: Path) -> None:
    recognizer, folder = Recognizer(make_release(1).release), NotingFolder(tmp_path / "heard")
    with Recorder(folder, KeepSettings(events=True)) as recorder:
        recognizer.feed(np.random.default_rng(0).standard_normal(160_000).astype(np.float32))
        recorder.keep("a" * 16, Event("yes", 0.9, 9.0, 10.0, 1), recognizer)
        recognizer.skip(64_000)
        recognizer.feed(np.zeros(4_800, np.float32))
        recorder.keep("b" * 16, Event("yes", 0.9, 13.3, 14.3, 1), recognizer)
        recognizer.feed(np.zeros(32_000, np.float32))
        recorder.keep("c" * 16, Event("yes", 0.9, 15.3, 16.3, 1), recognizer)
    first, second = (folder.samples(name * 16) for name in "ab")
    assert first is not None
    assert second is not None
    assert (second[:11_200] == first[4_800:]).all()
    assert [one.stretch for one in folder.added] == ["a" * 16, "a" * 16, "c" * 16]


def test_scores_that_are_no_numbers_lead_to_nothing() -> None:
    detector = Detector(make_task(), 1)
    rows = np.full((5, 4), 0.9, np.float32)
    detector.feed(rows * (1, 0, 0, 0), np.arange(5) * 160 + 16_000)
    assert detector.leading == ("yes", pytest.approx(0.9))
    detector.feed(np.full((5, 4), np.nan, np.float32), np.arange(5, 10) * 160 + 16_000)
    assert detector.leading is None


def test_the_bounds_hold_while_it_listens(home: DeviceHome) -> None:
    bound = 0.15
    child = start(
        home,
        "fast,loop",
        events=True,
        self_training=True,
        windows_per_hour=3600,
        least_score=0.5,
        max_mb=bound,
    )
    largest = 0

    def size() -> int:
        """Of the sounds that are there whole."""
        sizes = []
        for file in home.heard.glob("[!.]*") if home.heard.exists() else ():
            with suppress(FileNotFoundError):
                sizes.append(file.stat().st_size)
        return sum(sizes)

    def has_kept_many() -> bool:
        nonlocal largest
        largest = max(largest, size())
        return home.listener_status.exists() and status(home).get("sounds_kept", 0) > 20

    try:
        wait_for(has_kept_many, "more sounds than there is room for")
    finally:
        child.terminate()
        child.communicate()
    assert 32_000 < largest <= bound * 1e6
    assert 32_000 < size() <= bound * 1e6


def test_a_sound_for_which_there_is_no_room_does_not_cost_the_others(
    tmp_path: Path, words: NDArray[np.float32]
) -> None:
    recognizer, folder = Recognizer(make_release(1).release), HeardFolder(tmp_path / "heard")
    recognizer.feed(words[:160_000])
    with Recorder(folder, KeepSettings(events=True, max_mb=0.1)) as recorder:
        recorder.keep(f"{1:016x}", Event("yes", 0.9, 0.5, 1.5, 1), recognizer)
        recorder.keep(f"{2:016x}", Event("yes", 0.9, 0.5, 9.5, 1), recognizer)
    assert recorder.counters == {"sounds_kept": 1, "sounds_lost": 1}
    assert [int(one.id, 16) for one in folder] == [1]


def test_what_is_old_goes_when_nothing_is_kept_any_more(home: DeviceHome) -> None:
    folder = HeardFolder(home.heard)
    for days in (2, 0):
        folder.add(heard(days, time=datetime.now(UTC) - timedelta(days=days)), SECOND)
    listen(home, max_days=1.0)
    assert [int(one.id, 16) for one in folder] == [0]


def test_sounds_of_a_clock_that_was_wrong_are_dated_anew_while_it_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = HeardFolder(tmp_path / "heard")
    folder.add(heard(1, time=datetime.now(UTC) + timedelta(days=3650)), SECOND)
    monkeypatch.setattr("fl_client.listen.recorder.TRIM_SECONDS", 0.01)
    monkeypatch.setattr("fl_client.listen.recorder.DAY_SECONDS", 0.0)
    with Recorder(folder, KeepSettings(events=True)):
        wait_for(lambda: all(one.time <= datetime.now(UTC) for one in folder), "the present")
    assert len(list(folder)) == 1


def test_a_killed_listener_leaves_no_half_sound_and_the_next_one_cleans_up(home: DeviceHome) -> None:
    for _ in range(4):
        count = len(list(HeardFolder(home.heard)))
        child = start(
            home, "fast,loop", events=True, self_training=True, windows_per_hour=3600, least_score=0.5
        )
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
    # No file may grow beyond 16 kB: what is told of the events fits, and each sound is cut off while written.
    events = listen(home, "ulimit -f 16", events=True)
    assert len(events) >= 3
    assert (status(home)["sounds_kept"], status(home)["sounds_lost"]) == (0, len(events))
    assert list(home.heard.iterdir()) == []


def test_a_folder_that_is_gone_costs_the_sounds_until_it_is_back(
    tmp_path: Path, words: NDArray[np.float32]
) -> None:
    recognizer, event = Recognizer(make_release(1).release), Event("yes", 0.9, 0.5, 1.5, 1)
    recognizer.feed(words[:32_000])
    root = tmp_path / "heard"
    root.symlink_to(root)  # to list it is an OSError, as on a disk that was unplugged
    with Recorder(HeardFolder(root), KeepSettings(events=True, self_training=True)) as recorder:
        for number in range(3 * WAITING):
            recorder.keep(f"{number:016x}", event, recognizer)
            wait_for(lambda lost=number + 1: recorder.counters["sounds_lost"] == lost, "a loss")
        root.unlink()
        recorder.keep("f" * 16, event, recognizer)
    assert recorder.counters == {"sounds_kept": 1, "sounds_lost": 3 * WAITING}
    assert len(list(HeardFolder(root))) == 1


class Slow(HeardFolder):
    """On a disk that does not answer before `disk` is set."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.disk, self.asked = threading.Event(), threading.Event()

    def add(self, heard: Heard, samples: NDArray[np.int16]) -> bool:
        self.asked.set()
        assert self.disk.wait(60)
        return super().add(heard, samples)


class TestASlowDisk:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Slow:
        return Slow(tmp_path / "heard")

    def keep(self, recorder: Recorder, folder: Slow, words: NDArray[np.float32], count: int) -> None:
        """Hand over sounds until no more can wait; one is being written then."""
        recognizer = Recognizer(make_release(1).release)
        recognizer.feed(words[:32_000])
        for number in range(count):
            recorder.keep(f"{number:016x}", Event("yes", 0.9, 0.5, 1.5, 1), recognizer)
            assert folder.asked.wait(60)

    def test_it_does_not_hold_up_the_listening(self, folder: Slow, words: NDArray[np.float32]) -> None:
        with Recorder(folder, KeepSettings(events=True)) as recorder:
            self.keep(recorder, folder, words, 3 * WAITING)
            assert recorder.counters == {"sounds_kept": 0, "sounds_lost": 2 * WAITING - 1}
            folder.disk.set()
        assert recorder.counters == {"sounds_kept": WAITING + 1, "sounds_lost": 2 * WAITING - 1}
        assert len(list(folder)) == WAITING + 1

    def test_it_does_not_hold_up_the_end(
        self, folder: Slow, words: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("fl_client.listen.recorder.ENDING_SECONDS", 0.05)
        with Recorder(folder, KeepSettings(events=True)) as recorder:
            self.keep(recorder, folder, words, 3 * WAITING)
        # The one that is being written is neither kept nor lost.
        assert recorder.counters == {"sounds_kept": 0, "sounds_lost": 3 * WAITING - 1}
        folder.disk.set()

    def test_what_waits_is_not_written_after_all_was_deleted(
        self, folder: Slow, words: NDArray[np.float32]
    ) -> None:
        with Recorder(folder, KeepSettings(events=True)) as recorder:
            self.keep(recorder, folder, words, 3)
            folder.clear()
            folder.disk.set()
            self.keep(recorder, folder, words, 1)
        assert [int(one.id, 16) for one in folder] == [0]
        assert recorder.counters == {"sounds_kept": 1, "sounds_lost": 0}


def test_an_event_that_is_not_in_the_log_is_not_kept(tmp_path: Path, words: NDArray[np.float32]) -> None:
    recognizer = Recognizer(make_release(1).release)
    recognizer.feed(words[:32_000])
    with Recorder(HeardFolder(tmp_path / "heard"), KeepSettings(events=True)) as recorder:
        recorder.keep(None, Event("yes", 0.9, 0.5, 1.5, 1), recognizer)
    assert recorder.counters == {"sounds_kept": 0, "sounds_lost": 0}
