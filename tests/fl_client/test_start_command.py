"""`fedaudio client start` with several folders: what it needs before anything is started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fl_client.enrol import enrol
from fl_client.home import DeviceHome
from tests.fl_client.made_coordinator import Desk
from tests.fl_client.made_tasks import configure, name_tasks
from tests.processes import ROOT, run_cli, wait_for


@pytest.fixture
def kitchen(desk: Desk, tmp_path: Path) -> DeviceHome:
    """A device that is to listen for the task of another one too, whose keys are under a passphrase."""
    kitchen, scene = DeviceHome(tmp_path / "kitchen"), DeviceHome(tmp_path / "scene")
    enrol(kitchen, desk.invite(), name="kitchen")
    enrol(scene, desk.invite(), name="scene", passphrase=b"correct horse")
    name_tasks(kitchen, scene="../scene")
    return kitchen


@pytest.mark.parametrize("given", [None, "wrong horse"])
def test_a_folder_that_stays_locked_is_named_and_nothing_is_started(
    kitchen: DeviceHome, tmp_path: Path, given: str | None
) -> None:
    words = ["client", "start", "--home", str(kitchen.root)]
    if given is not None:
        (tmp_path / "passphrase").write_text(given)
        words += ["--passphrase-file", str(tmp_path / "passphrase")]
    done = run_cli(*words)
    assert done.returncode == 2
    assert "FA-6006" in done.stderr
    assert str(tmp_path / "scene") in done.stderr
    assert not kitchen.link_status.exists()


def test_one_passphrase_is_tried_on_each_folder_that_needs_one(kitchen: DeviceHome, tmp_path: Path) -> None:
    secret, log = tmp_path / "passphrase", tmp_path / "log"
    secret.touch(mode=0o600)
    secret.write_text("correct horse\n")
    words = ["start", "--home", str(kitchen.root), "--passphrase-file", str(secret)]
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "fedaudio", "client", *words], stderr=errors, cwd=ROOT
        )
    try:
        # A link says so much only after it has opened its keys.
        for name in ("fl_client.link", "fl_client.link [scene]"):
            wait_for(lambda name=name: f" {name}: " in log.read_text(), f"a line of {name}")
    finally:
        process.terminate()
        process.wait(60)
    assert "cannot work" not in log.read_text()


def test_without_protection_every_coordinator_must_be_on_this_machine(
    kitchen: DeviceHome, tmp_path: Path
) -> None:
    configure(DeviceHome(tmp_path / "scene"), server="192.0.2.7:8650")
    done = run_cli("client", "start", "--insecure-loopback", "--home", str(kitchen.root))
    assert done.returncode == 5
    assert "FA-4009" in done.stderr
    assert "192.0.2.7" in done.stderr
