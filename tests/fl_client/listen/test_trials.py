"""A release that brings the listener down does so once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from common.protocol.release import Release
from fl_client.listen.events import MAIN
from fl_client.listen.following import Follower
from fl_client.listen.limits import SwapLimits
from fl_client.listen.listener import run_listener
from fl_client.listen.room import Personal, Room, as_released
from fl_client.listen.sources import Block
from fl_client.listen.trials import Trials, read_note
from fl_client.store import ModelStore
from tests.fl_client.listen.made_faults import BANG, faulty_files
from tests.fl_client.listen.made_releases import make_release
from tests.made_manifests import put
from tests.processes import eventually, wait_for

Sound = NDArray[np.float32]
QUICK = SwapLimits(shadow_seconds=0, wait_seconds=0, watch_seconds=3, busy=100, held_seconds=1e6)
LONG = SwapLimits(shadow_seconds=0, wait_seconds=0, watch_seconds=1e6, busy=100, held_seconds=1e6)

LISTEN = """
import signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whatever the tests were started with
from fl_client.listen.__main__ import main
sys.exit(main())
"""


@pytest.fixture
def listen(home: Path, tmp_path: Path, speech: Sound) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    children = []
    soundfile.write(tmp_path / "speech.wav", speech, 16000, subtype="FLOAT")

    def start() -> subprocess.Popen[bytes]:
        (home / "listener.json").unlink(missing_ok=True)
        command = [sys.executable, "-c", LISTEN, "--home", str(home)]
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


def versions(home: Path, what: str) -> list[int]:
    """Of what `trial.json` says."""
    said = getattr(read_note(home / "trial.json"), what)
    return [one.version for one in (said if isinstance(said, tuple) else [said]) if one is not None]


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
    eventually(lambda: versions(home, "at_work") == [2], child)
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
    child.send_signal(signal.SIGHUP)
    assert child.wait(timeout=60) == 0
    assert (versions(home, "at_work"), versions(home, "on_trial"), versions(home, "failed")) == ([], [], [2])
    child = listen()
    eventually(lambda: version(home) == 3, child)


class Life:
    """One process of a listener, as far as trials go: it is fed by the test, and may be killed."""

    def __init__(self, store: ModelStore, home: Path, limits: SwapLimits, personal: Personal = as_released):
        room = Room(MAIN, store, personal, trial_path=home / "trial.json")
        self.follower = Follower(room, limits)
        found = self.follower.begin()
        assert found is not None
        self.recognizer = found
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self.follower.follow, args=(self._stop,))
        self._thread.start()

    def hear(self, sound: Sound, condition: Callable[[], bool]) -> None:
        """Hear `sound` over and over until `condition`."""
        pieces = cycle(np.split(sound, range(1600, len(sound), 1600)))

        def heard() -> bool:
            for _ in range(5):
                self.recognizer.feed(next(pieces))
            return condition()

        wait_for(heard, "what only a fault keeps from coming")

    def kill(self) -> None:
        self._stop.set()
        self._thread.join()

    def end(self) -> None:
        self.kill()
        self.follower.end()


Live = Callable[..., Life]


@pytest.fixture
def live(store: ModelStore, home: Path) -> Iterator[Live]:
    lives: list[Life] = []

    def begin(limits: SwapLimits = QUICK, **more: Personal) -> Life:
        lives.append(Life(store, home, limits, **more))
        return lives[-1]

    yield begin
    for life in lives:
        life.kill()


@pytest.fixture
def proved(store: ModelStore, home: Path, live: Live, speech: Sound) -> None:
    """Version 1 has been at work for long enough."""
    put(store, make_release(1).files)
    life = live()
    life.hear(speech, lambda: versions(home, "proved") == [1])
    life.end()


@pytest.mark.usefixtures("proved")
def test_of_bad_releases_in_a_row_each_brings_the_listener_down_once(
    store: ModelStore, home: Path, live: Live, speech: Sound
) -> None:
    for number in range(2, 7):
        life = live(LONG)
        assert life.recognizer.version == 1
        put(store, make_release(number, seed=1).files)
        life.hear(speech, lambda number=number: versions(home, "at_work") == [number])  # type: ignore[misc]
        life.kill()
    life = live()
    assert life.recognizer.version == 1
    assert versions(home, "failed") == [2, 3, 4, 5, 6]
    (told,) = life.recognizer.swaps()
    assert (told.outcome, told.from_version, told.to_version) == ("rolled-back", 6, 1)
    life.hear(speech, lambda: life.recognizer.seconds > 10)
    assert (life.recognizer.version, life.recognizer.swaps()) == (1, [])
    assert store.find(1) is not None


@pytest.mark.usefixtures("proved")
def test_a_release_that_comes_while_another_is_watched_does_not_take_its_blame(
    store: ModelStore, home: Path, live: Live, speech: Sound
) -> None:
    life = live(LONG)
    put(store, make_release(2, seed=1).files)
    life.hear(speech, lambda: versions(home, "at_work") == [2])
    life.recognizer._swap._limits = SwapLimits(shadow_seconds=1e6)
    put(store, make_release(3, seed=1).files)
    life.hear(speech, lambda: life.recognizer.shadowed)
    assert (versions(home, "at_work"), versions(home, "on_trial")) == ([2], [3])
    put(store, make_release(4, seed=1).files)  # one after the other
    life.hear(speech, lambda: life.recognizer.seconds > 30)
    assert versions(home, "on_trial") == [3]
    life.kill()
    life = live()
    assert life.recognizer.version == 1
    assert versions(home, "failed") == [2]
    life.hear(speech, lambda: versions(home, "proved") == [4])
    life.end()
    assert live().recognizer.version == 4


@pytest.mark.usefixtures("proved")
def test_who_ends_the_listening_while_a_release_is_tried_neither_condemns_nor_proves_it(
    store: ModelStore, home: Path, live: Live, speech: Sound
) -> None:
    put(store, make_release(2, seed=1).files)
    for limits, noted in ((SwapLimits(shadow_seconds=1e6), "on_trial"), (LONG, "at_work")):
        life = live(limits)
        assert life.recognizer.version == 1
        life.hear(speech, lambda noted=noted: versions(home, noted) == [2])  # type: ignore[misc]
        life.end()
        assert read_note(home / "trial.json").in_use == {1}
        assert versions(home, "failed") == []


@pytest.mark.usefixtures("proved")
def test_a_release_that_fails_after_its_watch_is_not_tried_again(
    store: ModelStore, home: Path, live: Live, speech: Sound
) -> None:
    put(store, faulty_files(make_release(2, seed=1), "fails"))
    life = live()
    life.hear(speech, lambda: versions(home, "proved") == [2])
    assert not life.recognizer.on_trial
    bang = np.concatenate((np.zeros(16_000, np.float32), BANG))
    life.hear(bang, lambda: versions(home, "failed") == [2])
    life.hear(speech, lambda: versions(home, "proved") == [1])
    life.end()
    assert live().recognizer.version == 1


@pytest.mark.usefixtures("proved")
def test_a_shadow_that_fails_is_not_tried_again(
    store: ModelStore, home: Path, live: Live, speech: Sound
) -> None:
    life = live(SwapLimits(shadow_seconds=1e6))
    put(store, faulty_files(make_release(2, seed=1), "fails"))
    life.hear(speech, lambda: life.recognizer.shadowed)
    bang = np.concatenate((np.zeros(16_000, np.float32), BANG))
    life.hear(bang, lambda: versions(home, "failed") == [2])
    life.end()
    life = live()
    life.hear(speech, lambda: life.recognizer.seconds > 10)
    assert (life.recognizer.version, life.recognizer.swaps()) == (1, [])


@pytest.mark.usefixtures("proved")
def test_it_is_on_the_disk_before_anything_of_a_release_is_run(
    store: ModelStore, home: Path, live: Live, speech: Sound
) -> None:
    noted = []

    def personal(release: Release) -> Release:  # asked just before it is run
        noted.append((release.version, versions(home, "on_trial")))
        return release

    life = live(personal=personal)
    put(store, make_release(2, seed=1).files)
    life.hear(speech, lambda: life.recognizer.version == 2)
    assert noted == [(1, []), (2, [2])]
    assert (home / "trial.json").stat().st_mode & 0o777 == 0o600


def test_what_cannot_be_noted_is_not_tried(
    store: ModelStore, home: Path, live: Live, speech: Sound, caplog: pytest.LogCaptureFixture
) -> None:
    put(store, make_release(1).files)
    life = live()
    life.follower._trials._path = home / "gone" / "trial.json"
    put(store, make_release(2, seed=1).files)
    life.hear(speech, lambda: "version 2 is not tried" in caplog.text)
    assert (life.recognizer.version, life.recognizer.swaps()) == (1, [])


class Unplugged:
    """Sound until a condition holds; then the source is gone."""

    def __init__(self, sound: Sound, condition: Callable[[], bool]) -> None:
        self._sound, self._condition, self._at = sound, condition, 0

    def __enter__(self) -> Unplugged:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read(self) -> Block:
        if self._condition():
            raise OSError("unplugged")
        self._at = (self._at + 1600) % (len(self._sound) - 1600)
        return Block(self._sound[self._at : self._at + 1600])


@pytest.mark.usefixtures("proved")
def test_a_source_that_fails_is_not_held_against_the_release_on_trial(
    store: ModelStore, home: Path, speech: Sound
) -> None:
    put(store, make_release(2, seed=1).files)
    source = Unplugged(speech, lambda: versions(home, "at_work") == [2])
    room = Room(MAIN, store, trial_path=home / "trial.json")
    with pytest.raises(OSError, match="unplugged"):
        run_listener([room], source, lambda _: None, status_path=None, stop=threading.Event(), limits=LONG)
    assert (versions(home, "failed"), read_note(home / "trial.json").in_use) == ([], {1})


def test_a_release_that_ends_the_listening_is_the_one_that_failed(
    store: ModelStore, home: Path, live: Live
) -> None:
    put(store, make_release(1).files)
    put(store, faulty_files(make_release(2), "not numbers"))
    sound = Unplugged(np.concatenate((np.zeros(32_000, np.float32), BANG, BANG)), lambda: False)
    room = Room(MAIN, store, trial_path=home / "trial.json")
    with pytest.raises(RuntimeError, match="not numbers"):
        run_listener([room], sound, lambda _: None, status_path=None, stop=threading.Event(), limits=LONG)
    assert versions(home, "failed") == [2]
    assert live().recognizer.version == 1


def test_what_failed_is_the_last_to_be_taken(store: ModelStore, home: Path) -> None:
    """And of those what did so longest ago, so that each has its turn."""
    path = home / "trial.json"

    def first() -> int:
        follower = Follower(Room(MAIN, store, trial_path=path))
        found = follower.begin()
        assert found is not None
        follower.end()
        return found.version

    for number in (1, 2, 3):
        put(store, make_release(number).files)
    assert first() == 3
    for number in (3, 2):
        Trials(path).fail(store.load(number), "a test")
        assert first() == 1 + (number == 3)
    (store.root / "00000001" / "graph.onnx").write_bytes(b"damaged")
    assert [first(), first()] == [3, 3]  # better than none
    Trials(path).fail(store.load(3), "again")
    assert first() == 2
    put(store, make_release(4).files)
    assert first() == 4


def test_a_release_made_anew_has_not_failed(home: Path) -> None:
    home.mkdir()
    trials = Trials(home / "trial.json")
    trials.fail(make_release(2).release, "a test")
    assert trials.failed_as(make_release(2).release) == 0
    assert trials.failed_as(make_release(2, seed=1).release) is None


@pytest.mark.parametrize("damage", [b"", b"{", b'{"proved": {"version": 1}}', b"\xff\xfe"])
def test_a_damaged_note_is_passed_over(damage: bytes, store: ModelStore, home: Path) -> None:
    for number in (1, 2):
        put(store, make_release(number).files)
    (home / "trial.json").write_bytes(damage)
    assert Trials(home / "trial.json").died is None
    found = Follower(Room(MAIN, store, trial_path=home / "trial.json")).begin()
    assert found is not None
    assert found.version == 2
    assert versions(home, "failed") == []


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
        eventually(lambda: versions(home, "failed") == [2], child)
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=60) == 0
    finally:
        child.kill()
        child.wait()
    assert version(home) == 1
    assert (versions(home, "failed"), versions(home, "at_work")) == ([2], [])
    assert Trials(home / "trial.json").died is None
