"""What was heard at home: for its owner's eyes, on a disk that does not fill up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from fl_client.home import DeviceHome
from fl_client.link_status import LinkStatus
from fl_client.listen.events import LARGEST_LOG, Event, EventLog
from fl_client.store import ModelStore
from tests.fl_client.listen.made_releases import make_release
from tests.made_manifests import put

HEARD = Event("yes", 0.9, 1.0, 2.0, 3)


@pytest.fixture
def home(tmp_path: Path) -> DeviceHome:
    home = DeviceHome(tmp_path / "home")
    put(ModelStore(home.models, home.root / "marks.json"), make_release(1).files)
    sound = 0.1 * np.random.default_rng(0).normal(size=16_000)
    soundfile.write(tmp_path / "noise.wav", sound, 16_000, subtype="PCM_16")
    return home


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def listen(home: DeviceHome, *more: str, **env: str) -> str:
    command = [sys.executable, "-m", "fl_client.listen", "--home", str(home.root)]
    done = subprocess.run(
        [*command, "--source", f"file:{home.root.parent / 'noise.wav'},fast", *more],
        env=os.environ | env,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stderr


def test_events_are_their_owners_alone_and_do_not_fill_the_disk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = os.umask(0)
    try:
        log = EventLog(tmp_path / "events.jsonl")
        log(HEARD)
        assert mode(tmp_path / "events.jsonl") == 0o600
        os.truncate(tmp_path / "events.jsonl", LARGEST_LOG)
        log(HEARD)
        log(HEARD)
    finally:
        os.umask(before)
    printed = capsys.readouterr().out.splitlines(keepends=True)
    assert len(printed) == 3
    assert {json.loads(line)["label"] for line in printed} == {HEARD.label}
    assert (tmp_path / "events.jsonl.1").read_text().endswith(printed[1])
    assert (tmp_path / "events.jsonl").read_text() == printed[2]
    assert {mode(path) for path in tmp_path.iterdir()} == {0o600}


def test_reports_are_their_owners_alone(home: DeviceHome) -> None:
    listen(home)
    LinkStatus(home.link_status, lambda: False).write()
    assert mode(home.listener_status) == mode(home.link_status) == 0o600


def test_a_second_listener_leaves_the_firsts_status(home: DeviceHome) -> None:
    home.listener_status.write_text("the first's")
    listen(home, "--no-status")
    assert home.listener_status.read_text() == "the first's"


def test_the_log_is_json_if_that_is_asked_for(home: DeviceHome) -> None:
    lines = listen(home, FEDAUDIO_LOG_FORMAT="json").splitlines()
    assert "listening with version 1" in [json.loads(line)["message"] for line in lines]


def test_clips_are_their_owners_alone(device: DeviceHome) -> None:
    assert mode(device.clips) == 0o700
