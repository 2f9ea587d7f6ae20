"""One listener, several tasks, each with its own releases."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import tomli_w
from numpy.typing import NDArray

from common.protocol.release import Release
from fl_client.heard import HeardFolder
from fl_client.home import DeviceHome
from fl_client.listen.events import MAIN, Event, Message, Swap
from fl_client.listen.levels import Level
from fl_client.listen.limits import SwapLimits
from fl_client.listen.listener import run_listener
from fl_client.listen.recognizer import Recognizer
from fl_client.listen.room import Room
from fl_client.listen.settings import AlarmSettings, ListenSettings
from fl_client.listen.sources import Block
from fl_client.listen.trials import read_note
from fl_client.store import ModelStore
from tests.fl_client.listen.made_faults import BANG, always, faulty_files
from tests.fl_client.listen.made_releases import make_release, make_task
from tests.made_manifests import put
from tests.processes import ROOT, eventually, wait_for

Sound = NDArray[np.float32]
AT_ONCE = SwapLimits(shadow_seconds=0, wait_seconds=0)
SCENE = make_task(labels=("rain", "street", "stop", "silence"))
SCENES = make_release(4, seed=12, task=SCENE)
SIZE = 1600


@pytest.fixture
def scene(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "scene" / "models", tmp_path / "scene" / "marks.json")


class Script:
    """Plays `sound` block by block, and before some blocks does something."""

    def __init__(self, sound: Sound, acts: dict[int, Callable[[], None]] | None = None) -> None:
        self._sound, self._acts, self._at = sound, acts or {}, 0

    def __enter__(self) -> Script:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read(self) -> Block | None:
        number, self._at = self._at // SIZE, self._at + SIZE
        if number in self._acts:
            self._acts[number]()
        block = self._sound[self._at - SIZE : self._at]
        return Block(block) if len(block) else None


def listen(
    rooms: list[Room], source: Script, status: Path | None = None, **more: Any
) -> tuple[list[Any], dict[str, Any]]:
    """What was told, and the last report."""
    told: list[Message] = []
    run_listener(rooms, source, told.append, status_path=status, stop=threading.Event(), **more)
    return told, json.loads(status.read_bytes()) if status is not None else {}


def events(told: list[Message], task: str) -> list[tuple[str, float, int]]:
    return [(e.label, e.end, e.version) for e in told if isinstance(e, Event) and e.task == task]


def alone(release: Release, sound: Sound) -> list[tuple[str, float, int]]:
    pieces = np.split(sound, range(SIZE, len(sound), SIZE))
    return [(e.label, e.end, e.version) for e in Recognizer(release).listen(pieces)]


def swaps(told: list[Message]) -> list[tuple[str, str, int]]:
    return [(one.task, one.outcome, one.to_version) for one in told if isinstance(one, Swap)]


def test_each_task_reports_what_it_reports_alone(
    store: ModelStore, scene: ModelStore, speech: Sound, tmp_path: Path
) -> None:
    put(store, make_release(1).files)
    put(scene, SCENES.files)
    owner = ListenSettings(
        levels=True,
        level_seconds=2,
        alarms=(AlarmSettings(name="it rains", label="rain", repeat_seconds=0),),
    )
    rooms = [Room(MAIN, store, settings=owner), Room("scene", scene)]
    told, report = listen(rooms, Script(speech), tmp_path / "listener.json", settings=owner)
    expected = alone(make_release(1).release, speech)
    of_scene = alone(SCENES.release, speech)
    assert len(expected) >= 3
    assert len(of_scene) >= 3
    assert events(told, MAIN) == expected
    assert events(told, "scene") == of_scene
    hops = make_task().front_end.frames(len(speech))
    assert (report["version"], report["events"], report["hops"]) == (1, len(expected), hops)
    of_it = report["tasks"]["scene"]
    assert (of_it["version"], of_it["events"], of_it["hops"]) == (4, len(of_scene), hops)
    assert (of_it["dropped"], of_it["doubled"], report["tasks"].keys()) == (0, 0, {"scene"})
    labels = {label for one in told if isinstance(one, Level) for label in one.labels}
    assert {label for label, _, _ in expected} <= labels
    assert {f"scene/{label}" for label, _, _ in of_scene} <= labels
    rains = [one.at for one in told if one.kind == "alarm"]
    assert rains == [end for label, end, _ in of_scene if label == "rain"]


def test_each_task_has_its_own_thresholds_and_own_parameters(
    store: ModelStore, scene: ModelStore, speech: Sound
) -> None:
    put(store, make_release(1).files)
    put(scene, make_release(1).files)
    deaf = ListenSettings(thresholds={"yes": 0.999999})
    stops = always(make_release(1), 2)
    rooms = [
        Room(MAIN, store, settings=deaf),
        Room("second", scene),
        Room("third", scene, personal=lambda release: stops),
    ]
    told, _ = listen(rooms, Script(speech), settings=deaf)
    heard = {name: {label for label, _, _ in events(told, name)} for name in (MAIN, "second", "third")}
    assert "yes" in heard["second"]
    assert "yes" not in heard[MAIN]
    assert heard["third"] == {"stop"}


def test_one_task_swaps_while_the_other_goes_on(
    store: ModelStore, scene: ModelStore, speech: Sound, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(store, make_release(1).files)
    put(scene, SCENES.files)
    sound = np.tile(speech, 2)
    acts = {
        30: lambda: put(store, make_release(2).files),
        31: lambda: wait_for(lambda: "version 2 is on trial" in caplog.text, "an offer"),
    }
    with caplog.at_level("INFO"):
        rooms = [Room(MAIN, store), Room("scene", scene)]
        told, report = listen(rooms, Script(sound, acts), tmp_path / "listener.json", limits=AT_ONCE)
    assert swaps(told) == [(MAIN, "swapped", 2)]
    assert events(told, "scene") == alone(SCENES.release, sound)
    after = [one for one in events(told, MAIN) if one[1] > 5]
    assert [one[2] for one in after] == [2] * len(after)
    assert after == [one for one in alone(make_release(2).release, sound) if one[1] > 5] != []
    of_it = report["tasks"]["scene"]
    assert (report["swaps"], of_it["swaps"]) == (1, 0)
    assert report["hops"] == of_it["hops"] == make_task().front_end.frames(len(sound))
    assert report["dropped"] == report["doubled"] == of_it["dropped"] == of_it["doubled"] == 0


@pytest.mark.parametrize("late", [MAIN, "scene"])
def test_a_task_whose_first_release_comes_late_joins_then(
    late: str,
    store: ModelStore,
    scene: ModelStore,
    speech: Sound,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its time is that of the stream, and what was before is not counted as lost."""
    releases = {MAIN: make_release(1), "scene": SCENES}
    stores = {MAIN: store, "scene": scene}
    other = "scene" if late == MAIN else MAIN
    put(stores[other], releases[other].files)
    sound = np.tile(speech, 2)
    words = {MAIN: "listening with version 1", "scene": "scene: listening with version 4"}
    acts = {
        40: lambda: put(stores[late], releases[late].files),
        50: lambda: wait_for(lambda: words[late] in caplog.text, "the first release"),
    }
    with caplog.at_level("INFO"):
        rooms = [Room(name, stores[name]) for name in (MAIN, "scene")]
        told, report = listen(rooms, Script(sound, acts), tmp_path / "listener.json")
    assert events(told, other) == alone(releases[other].release, sound)
    from_then = [one for one in alone(releases[late].release, sound) if one[1] > 7]
    assert [one for one in events(told, late) if one[1] > 7] == from_then != []
    assert all(end >= 4 for _, end, _ in events(told, late))
    facts = {MAIN: report, "scene": report["tasks"]["scene"]}
    hops = make_task().front_end.frames(len(sound))
    assert facts[other]["hops"] == hops
    assert hops - 500 <= facts[late]["hops"] <= hops - 400 + 100
    assert all((one["dropped"], one["doubled"]) == (0, 0) for one in facts.values())
    assert report["seconds"] == pytest.approx(len(sound) / 16_000)


def test_a_task_that_never_gets_a_release_is_told_of_without_a_version(
    store: ModelStore, scene: ModelStore, speech: Sound, tmp_path: Path
) -> None:
    put(scene, SCENES.files)
    rooms = [Room(MAIN, store), Room("scene", scene)]
    told, report = listen(rooms, Script(speech), tmp_path / "listener.json")
    assert events(told, "scene") == alone(SCENES.release, speech)
    assert (report["version"], report["hops"]) == (None, 0)
    assert report["tasks"]["scene"]["version"] == 4


@pytest.mark.parametrize("at_fault", [MAIN, "scene"])
def test_what_a_release_fails_at_costs_its_own_task_that_and_the_others_nothing(
    at_fault: str,
    store: ModelStore,
    scene: ModelStore,
    speech: Sound,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stores, other = {MAIN: store, "scene": scene}, "scene" if at_fault == MAIN else MAIN
    put(stores[other], make_release(1).files)
    put(stores[at_fault], faulty_files(make_release(3, seed=1), "fails"))
    quiet = np.zeros(16_000, np.float32)
    sound, bang = np.concatenate((speech, quiet, BANG, quiet, speech)), len(speech) / 16_000 + 1
    rooms = [Room(name, stores[name], trial_path=tmp_path / f"{name}.json") for name in (MAIN, "scene")]
    told, report = listen(rooms, Script(sound), tmp_path / "listener.json")
    assert events(told, other) == alone(make_release(1).release, sound)
    assert caplog.text.count(f"{at_fault}: version 3 failed") == 1
    assert [one.version for one in read_note(tmp_path / f"{at_fault}.json").failed] == [3]
    assert not read_note(tmp_path / f"{other}.json").failed
    facts, hops = {MAIN: report, "scene": report["tasks"]["scene"]}, make_task().front_end.frames(len(sound))
    assert (facts[other]["hops"], facts[other]["dropped"]) == (hops, 0)
    assert facts[at_fault]["hops"] + facts[at_fault]["dropped"] == hops
    assert 10 <= facts[at_fault]["dropped"] <= 25  # a bang of a tenth of a second, in blocks of as much
    said, expected = events(told, at_fault), alone(make_release(3, seed=1).release, sound)
    before = [one for one in said if one[1] < bang]
    assert before == [one for one in expected if one[1] < bang] != []
    assert [end for _, end, _ in said if end > bang + 4]


def test_a_fault_in_the_only_task_at_work_ends_the_listening(
    store: ModelStore, scene: ModelStore, speech: Sound
) -> None:
    put(store, faulty_files(make_release(1), "fails"))
    with pytest.raises(Exception, match="Gather"):
        listen([Room(MAIN, store), Room("scene", scene)], Script(np.concatenate((speech[:32_000], BANG))))


def test_one_that_cannot_run_what_it_is_shown_on_joining_begins_after_it(
    store: ModelStore, scene: ModelStore, speech: Sound, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(store, make_release(1).files)
    sound = np.concatenate((speech[:32_000], np.zeros(16_000, np.float32), BANG, speech, speech))
    acts = {
        40: lambda: put(scene, faulty_files(make_release(4), "fails")),
        45: lambda: wait_for(lambda: "scene: listening" in caplog.text, "the first release"),
    }
    with caplog.at_level("INFO"):
        rooms = [Room(MAIN, store), Room("scene", scene)]
        told, report = listen(rooms, Script(sound, acts), tmp_path / "listener.json")
    assert events(told, MAIN) == alone(make_release(1).release, sound)
    assert [end for _, end, _ in events(told, "scene") if end > 8]
    assert report["tasks"]["scene"]["dropped"] == 0


def device(home: Path, **more: object) -> DeviceHome:
    home.mkdir(exist_ok=True)
    document = {"name": home.name, "server": "127.0.0.1:9", "coordinator": "0" * 64} | more
    (home / "device.toml").write_text(tomli_w.dumps(document))
    return DeviceHome(home)


def start(home: DeviceHome, source: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "fl_client.listen", "--home", str(home.root), "--source", source]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=ROOT)


def report_of(home: DeviceHome) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(home.listener_status.read_bytes())
    return facts


def lines(home: DeviceHome) -> list[dict[str, Any]]:
    return [json.loads(line) for line in home.events.read_text().splitlines()] if home.events.exists() else []


@pytest.fixture
def recording(tmp_path: Path, speech: Sound) -> Path:
    soundfile.write(tmp_path / "speech.wav", speech, 16_000, subtype="PCM_16")
    return tmp_path / "speech.wav"


def test_a_process_listens_for_the_tasks_of_the_folders_that_device_toml_names(
    tmp_path: Path, home: Path, store: ModelStore, scene: ModelStore, recording: Path
) -> None:
    put(store, make_release(1).files)
    put(scene, SCENES.files)
    second = device(
        tmp_path / "scene", keep={"events": True}, listen={"thresholds": {"rain": 0.999999}, "levels": True}
    )
    main = device(home, tasks={"scene": "../scene"})
    child = start(main, f"file:{recording},fast")
    assert child.wait(timeout=60) == 0
    heard = [line for line in lines(main) if line["type"] == "event"]
    assert {line["type"] for line in lines(main)} == {"event"}
    by_task = {name: [line for line in heard if line["task"] == name] for name in (MAIN, "scene")}
    assert {line["version"] for line in by_task[MAIN]} == {1}
    assert {line["version"] for line in by_task["scene"]} == {4}
    assert "rain" not in {line["label"] for line in by_task["scene"]}
    folder = HeardFolder(second.heard)
    assert [one.id for one in folder] == [line["id"] for line in by_task["scene"]]
    assert not main.heard.exists()
    report = report_of(main)
    assert (report["events"], "sounds_kept" in report) == (len(by_task[MAIN]), False)
    assert report["tasks"]["scene"]["sounds_kept"] == len(by_task["scene"])
    assert not second.events.exists()
    assert not second.listener_status.exists()


@pytest.fixture
def ended() -> Iterator[list[subprocess.Popen[bytes]]]:
    children: list[subprocess.Popen[bytes]] = []
    yield children
    for child in children:
        child.kill()
        child.wait()


def test_a_kill_during_the_trial_of_one_task_is_held_against_that_release_alone(
    tmp_path: Path,
    home: Path,
    store: ModelStore,
    scene: ModelStore,
    recording: Path,
    ended: list[subprocess.Popen[bytes]],
) -> None:
    put(store, make_release(1).files)
    put(scene, SCENES.files)
    second, main = device(tmp_path / "scene"), device(home, tasks={"scene": "../scene"})

    def begin() -> subprocess.Popen[bytes]:
        main.listener_status.unlink(missing_ok=True)
        ended.append(start(main, f"file:{recording},loop"))
        eventually(main.listener_status.exists, ended[-1])
        return ended[-1]

    child = begin()
    assert (report_of(main)["version"], report_of(main)["tasks"]["scene"]["version"]) == (1, 4)
    put(scene, make_release(5, seed=12, task=SCENE).files)
    eventually(lambda: report_of(main)["tasks"]["scene"]["version"] == 5, child)
    eventually(lambda: read_note(second.trial).on_trial is None, child)
    child.kill()
    child.wait()
    child = begin()
    assert (report_of(main)["version"], report_of(main)["tasks"]["scene"]["version"]) == (1, 4)
    told = {
        "task": "scene",
        "outcome": "rolled-back",
        "from_version": 5,
        "to_version": 4,
        "reason": "the listener ended while it was on trial",
    }
    eventually(lambda: any(told.items() <= line.items() for line in lines(main)), child)
    assert {line["task"] for line in lines(main) if line.get("outcome") == "rolled-back"} == {"scene"}
    put(store, make_release(2, seed=1).files)  # the other task has its trial nevertheless
    eventually(lambda: report_of(main)["version"] == 2, child)
    child.send_signal(signal.SIGTERM)
    assert child.wait(timeout=60) == 0
    assert [one.version for one in read_note(second.trial).failed] == [5]
    assert 2 not in {one.version for one in read_note(main.trial).failed}
