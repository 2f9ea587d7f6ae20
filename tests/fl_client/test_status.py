"""What a device's folder tells, whether it runs or not."""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fl_client.enrol import enrol
from fl_client.home import DeviceHome
from fl_client.link_status import LinkStatus
from fl_client.reports import STALE_SECONDS
from fl_client.status import describe
from tests.fl_client.made_coordinator import Desk
from tests.fl_client.made_identity import Made, make_home
from tests.fl_client.made_tasks import add_device, name_tasks
from tests.processes import run_cli


def test_the_folder_is_that_given_or_that_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDAUDIO_HOME", str(tmp_path / "environment"))
    assert DeviceHome.find(tmp_path / "given").root == tmp_path / "given"
    assert DeviceHome.find(None).root == tmp_path / "environment"
    monkeypatch.delenv("FEDAUDIO_HOME")
    assert DeviceHome.find(None).root.name == "device"


def test_nothing_runs(made: Made) -> None:
    status = describe(made.home)
    assert (status["name"], status["clips"], status["version"]) == ("kitchen", 6, None)
    assert (status["enrolment"], status["device"]) == ("active", made.device)
    assert status["certificate_ends"] == made.identity.certificate.ends.isoformat(timespec="minutes")
    assert status["link"] is None
    assert status["listener"] is None
    assert status["outlet"] is None
    assert status["refusal"] is None


def test_an_expired_certificate(tmp_path: Path) -> None:
    made = make_home(tmp_path / "old", now=datetime.now(UTC) - timedelta(days=100))
    assert describe(made.home)["enrolment"] == "expired"


def test_an_enrolment_that_waits_for_approval(tmp_path: Path) -> None:
    desk, home = Desk(tmp_path, approval=True), DeviceHome(tmp_path / "kitchen")
    with desk.open():
        enrol(home, desk.invite(), name="kitchen")
    status = describe(home)
    assert (status["enrolment"], status["device"], status["certificate_ends"]) == ("pending", None, None)
    assert "not been approved" in run_cli("client", "status", "--home", str(home.root)).stdout


def test_the_last_word_of_the_coordinator(made: Made) -> None:
    from common.errors import DeviceError

    report = LinkStatus(made.home.link_status, lambda: False)
    report.refused(DeviceError("FA-4014", "The coordinator refuses this device (FA-5048).", "Ask."))
    report.write()
    assert describe(made.home)["refusal"] == "The coordinator refuses this device (FA-5048). Ask."


def test_rules_that_have_no_effect_here_are_named(made: Made) -> None:
    made.home.policy.write_text("require_charger = true\nmaximum_load = 1000\n")
    untold = describe(made.home)["untold"]
    assert set(untold) <= {"require_charger"}


def test_a_fresh_report_counts_and_a_stale_or_damaged_one_does_not(device: DeviceHome) -> None:
    device.link_status.write_text(json.dumps({"linked": True}))
    assert describe(device)["link"] == {"linked": True}
    old = time.time() - STALE_SECONDS - 1
    os.utime(device.link_status, (old, old))
    assert describe(device)["link"] is None
    device.link_status.write_text("{half")
    assert describe(device)["link"] is None


def test_thresholds_of_another_version_than_that_at_work_are_told(device: DeviceHome) -> None:
    assert describe(device)["thresholds_of"] is None
    with device.config.open("a") as file:
        file.write("\n[listen.thresholds]\nyes = 0.9\n\n[listen.calibration]\nversion = 3\n")
    for version, told in ((3, None), (4, 3)):
        device.listener_status.write_text(json.dumps({"version": version}))
        assert describe(device)["thresholds_of"] == told
    assert "measured with version 3" in run_cli("client", "status", "--home", str(device.root)).stdout


@pytest.mark.parametrize(
    "text", ['{"rtf": 1e999}', '{"tasks": {"scene": {"rtf": -1e999}}}', '{"why": "\\ud800"}']
)
def test_a_report_that_could_not_be_served_is_none(device: DeviceHome, text: str) -> None:
    device.listener_status.write_text(text)
    assert describe(device)["listener"] is None
    device.listener_status.write_text('{"rtf": NaN, "version": 7}')
    assert describe(device)["listener"] == {"rtf": None, "version": 7}


@pytest.mark.parametrize("words", [["start"], ["status"], ["keys", "show"], ["policy", "check"]])
def test_a_folder_without_a_device_is_explained(tmp_path: Path, words: list[str]) -> None:
    done = run_cli("client", *words, "--home", str(tmp_path / "nothing"))
    assert done.returncode == 5
    assert "FA-4010" in done.stderr
    assert "client enroll" in done.stderr


def test_a_folder_that_one_may_not_enter_is_explained(tmp_path: Path) -> None:
    # A name that no file system takes fails as a forbidden folder does, for root too.
    for words in (["status"], ["start"], ["policy", "show"]):
        done = run_cli("client", *words, "--home", str(tmp_path / ("x" * 300)))
        assert done.returncode == 8
        assert "FA-8001" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_source_that_is_none_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    done = run_cli("client", "enroll", "x", "--home", str(tmp_path / "new"), "--source", "bogus")
    assert "FA-4203" in done.stderr
    assert not (tmp_path / "new").exists()


def test_further_tasks_are_told_of_as_the_listener_hears_them(device: DeviceHome, tmp_path: Path) -> None:
    scene, late = add_device(tmp_path / "scene"), add_device(tmp_path / "late")
    name_tasks(device, scene="../scene", late="../late")
    assert describe(device)["tasks"]["scene"] == {"home": str(scene.root), "listener": None}
    tasks = {"scene": {"version": 3, "events": 12}, "gone": {"version": 1, "events": 0}}
    device.listener_status.write_text(json.dumps({"version": 7, "tasks": tasks}))
    assert describe(device)["tasks"] == {
        "scene": {"home": str(scene.root), "listener": tasks["scene"]},
        "late": {"home": str(late.root), "listener": None},
    }
    said = run_cli("client", "status", "--home", str(device.root)).stdout
    assert f"The task scene of {scene.root} is heard with version 3: 12 events." in said
    assert f"The task late of {late.root} is not heard" in said


@pytest.mark.parametrize("words", [["start"], ["status"], ["feedback", "last", "right"]])
def test_a_tasks_folder_that_is_gone_is_explained(device: DeviceHome, words: list[str]) -> None:
    name_tasks(device, scene="../scene")
    done = run_cli("client", *words, "--home", str(device.root))
    assert done.returncode == 2
    assert "FA-6010" in done.stderr
    assert "Traceback" not in done.stderr
