"""The outlet on a running device: beside the listener and the link, and brought back when it dies."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest
import soundfile
import tomli_w
from numpy import concatenate

from common.audio.reading import read_audio
from fl_client.home import DeviceHome
from fl_client.status import describe
from fl_client.store import ModelStore
from tests.fl_client.listen.made_releases import make_release
from tests.made_manifests import put
from tests.processes import ROOT, free_port, run_cli, wait_for


@pytest.fixture
def port(device: DeviceHome) -> int:
    """Of the API that `device` is told to serve."""
    port = free_port()
    settings = tomllib.loads(device.config.read_text())
    device.config.write_text(tomli_w.dumps(settings | {"outlet": {"api": {"port": port}}}))
    return port


@pytest.fixture
def running(
    device: DeviceHome, port: int, tmp_path: Path, shared_data: Path
) -> Iterator[subprocess.Popen[bytes]]:
    clips = sorted((shared_data / "fsdd").rglob("*.flac")) + sorted((shared_data / "fsdd").rglob("*.wav"))
    sound = concatenate([read_audio(clip) for clip in clips[::37][:24]])
    soundfile.write(tmp_path / "speech.wav", sound, 16000)
    put(ModelStore(device.models, device.marks), make_release(1).files)
    words = ["start", "--home", str(device.root), "--source", f"file:{tmp_path}/speech.wav,loop"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "fedaudio", "client", *words], stderr=log, cwd=ROOT)
    yield process
    process.terminate()
    process.wait(30)


def outlet_of(running: subprocess.Popen[bytes]) -> psutil.Process | None:
    for child in psutil.Process(running.pid).children():
        with suppress(psutil.NoSuchProcess):  # or it has died and nobody has noticed yet
            if "fl_client.outlet" in child.cmdline():
                return child
    return None


def get(port: int, path: str) -> dict[str, object]:
    try:
        answer: dict[str, object] = httpx.get(f"http://127.0.0.1:{port}/v1/{path}").json()
    except httpx.HTTPError:
        return {}
    return answer


def test_what_the_listener_hears_is_served_and_an_outlet_that_dies_comes_back(
    running: subprocess.Popen[bytes], device: DeviceHome, port: int
) -> None:
    wait_for(lambda: bool(get(port, "events").get("events")), "an event")
    state = get(port, "state")
    assert state["listening"]
    assert isinstance(state["event"], dict)
    assert state["event"]["version"] == 1
    first = outlet_of(running)
    assert first is not None
    first.kill()

    def back() -> bool:
        other = outlet_of(running)
        return other is not None and other.pid != first.pid and bool(get(port, "events").get("events"))

    wait_for(back, "another outlet with what was heard before")
    wait_for(lambda: (describe(device)["outlet"] or {}).get("pid") != first.pid, "its report")
    told = json.loads(run_cli("client", "status", "--home", str(device.root), "--json").stdout)
    assert told["outlet"]["readers"] == 0
    assert "The outlet: " in run_cli("client", "status", "--home", str(device.root)).stdout


def test_an_outlet_ends_with_its_supervisor_however_that_ends(
    running: subprocess.Popen[bytes], port: int
) -> None:
    wait_for(lambda: bool(get(port, "health")), "the API")
    outlet = outlet_of(running)
    assert outlet is not None
    running.kill()
    outlet.wait(timeout=30)


def test_nobody_is_started_for_nothing(device: DeviceHome) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "fedaudio", "client", "start", "--home", str(device.root)],
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
    )
    try:
        wait_for(device.link_status.exists, "the link")
        assert outlet_of(process) is None
    finally:
        process.terminate()
        process.wait(30)
