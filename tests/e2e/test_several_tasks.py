"""One device that listens for two tasks, as its owner runs it: their links, one listener, one outlet."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import soundfile

from common.audio.front_end import Mfcc
from common.audio.reading import read_audio
from fl_client.device_clips import stored_clips
from fl_client.home import DeviceHome
from fl_client.store import ModelStore
from tests.fl_client.listen.made_releases import make_release, make_task
from tests.fl_client.made_identity import make_home
from tests.fl_client.made_tasks import configure
from tests.made_manifests import put
from tests.processes import ROOT, free_port, run_cli, wait_for

SCENES = make_task(labels=("rain", "wind", "street", "background"), front_end=Mfcc(), clip_seconds=0.5)


@dataclass(frozen=True)
class Running:
    """`fedaudio client start` in `kitchen`, which listens for the task of `scene` too."""

    kitchen: DeviceHome
    scene: DeviceHome
    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def ask(self, path: str, **query: str) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = httpx.get(f"http://127.0.0.1:{self.port}/v1/{path}", params=query).json()
        except httpx.HTTPError:
            return {}
        return answer

    def event_of(self, task: str) -> dict[str, Any] | None:
        """The newest event of a task, as the API tells it."""
        lines = self.ask("events", type="event").get("events", ())
        return next((line for line in reversed(lines) if line["task"] == task), None)

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        def check() -> None:
            assert self.process.poll() is None, self.log.read_text()

        wait_for(condition, what, check)


@pytest.fixture
def running(tmp_path: Path, shared_data: Path) -> Iterator[Running]:
    recordings, port = tmp_path / "recordings", free_port()
    recordings.mkdir()
    words = sorted((shared_data / "fsdd").rglob("*.flac")) + sorted((shared_data / "fsdd").rglob("*.wav"))
    sound = np.concatenate([read_audio(word) for word in words[::37][:24]])
    soundfile.write(recordings / "words.wav", sound, 16_000)
    kitchen, scene = make_home(tmp_path / "kitchen").home, make_home(tmp_path / "scene").home
    configure(kitchen, source="mic", tasks={"scene": "../scene"}, keep={"events": True})
    configure(kitchen, outlet={"api": {"port": port}})
    configure(scene, source="mic", keep={"events": True})
    put(ModelStore(kitchen.models, kitchen.marks), make_release(1).files)
    words_of = ["start", "--home", str(kitchen.root), "--source", f"dir:{recordings},loop"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "fedaudio", "client", *words_of], stdout=log, stderr=log, cwd=ROOT
        )
    yield Running(kitchen, scene, port, process, tmp_path / "log")
    process.terminate()
    process.wait(60)


def test_two_tasks_are_heard_each_with_its_own_model_and_judged_each_in_its_folder(running: Running) -> None:
    running.wait(lambda: running.event_of("main") is not None, "an event of the device's own task")
    # The other task waits for its first release and holds nobody up.
    assert running.event_of("scene") is None
    assert running.ask("state")["tasks"] == {"scene": {"version": None, "event": None}}
    scenes = ModelStore(running.scene.models, running.scene.marks)
    put(scenes, make_release(1, task=SCENES).files)
    running.wait(lambda: running.event_of("scene") is not None, "an event of the other task")
    put(scenes, make_release(2, seed=1, task=SCENES).files)
    running.wait(lambda: running.ask("state")["tasks"]["scene"]["version"] == 2, "the swap of one task")

    state = running.ask("state")
    assert state["listener"]["version"] == 1
    assert state["event"]["label"] in make_task().labels
    assert state["tasks"]["scene"]["event"]["label"] in SCENES.labels
    (swap,) = running.ask("events", type="swap")["events"]
    assert (swap["task"], swap["outcome"], swap["to_version"]) == ("scene", "swapped", 2)
    said = run_cli("client", "status", "--home", str(running.kitchen.root)).stdout
    assert f"The task scene of {running.scene.root} is heard with version 2" in said

    _judge(running)


def _judge(running: Running) -> None:
    """Over HTTP for one task, by the command for the other."""
    of_scene, own = running.event_of("scene"), running.event_of("main")
    assert of_scene is not None
    assert own is not None
    body = {"event": of_scene["id"], "verdict": "wrong"}
    given = httpx.post(f"http://127.0.0.1:{running.port}/v1/feedback", json=body, timeout=60).json()
    assert (given["task"], given["heard"], given["label"]) == ("scene", of_scene["label"], "background")
    (clip,) = running.scene.clips.glob(f"*/*_event-{of_scene['id']}.flac")
    assert clip.parent.name == "background"
    assert len(read_audio(clip)) == round((of_scene["end"] - of_scene["start"]) * 16_000)
    words = ["client", "feedback", own["id"], "right", "--home", str(running.kitchen.root), "--json"]
    done = run_cli(*words)
    assert json.loads(done.stdout)["task"] == "main", done.stderr
    (clip,) = running.kitchen.clips.glob(f"*/*_event-{own['id']}.flac")
    assert clip.parent.name == own["label"]
    for home, event in ((running.kitchen, own), (running.scene, of_scene)):
        origins = {sound.origin for sound in stored_clips(home) if sound.id == event["id"]}
        assert origins == {"kept", "feedback"}
    assert not running.scene.events.exists()


def test_a_link_that_dies_comes_back_and_is_named(running: Running) -> None:
    running.wait(lambda: bool(running.ask("health")), "the outlet")
    running.wait(running.scene.link_status.exists, "the link of the scene")
    children = psutil.Process(running.process.pid).children()
    kinds = sorted(child.cmdline()[2] for child in children)
    assert kinds == ["fl_client.link_process"] * 2 + ["fl_client.listen", "fl_client.outlet"]
    (link,) = [child for child in children if str(running.scene.root) in child.cmdline()]
    link.kill()

    def is_back() -> bool:
        now = json.loads(running.scene.link_status.read_bytes())
        return bool(now["pid"] != link.pid)

    running.wait(is_back, "another link")
    running.wait(lambda: "[scene]: " in running.log.read_text(), "a line that says whose it is")
    said = running.log.read_text()
    assert "the link scene ended with status -9" in said
    assert f"not used in {running.scene.config}, whose task is listened for with others: source" in said
    done = run_cli("client", "start", "--home", str(running.scene.root))
    assert done.returncode == 5
    assert "FA-4025" in done.stderr
