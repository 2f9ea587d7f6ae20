"""A device's folder: made once, with what it needs, and found again."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from common.errors import ConfigError, DeviceError
from common.files import StorageError
from common.settings import load_settings
from fl_client.home import DeviceHome
from fl_client.initialise import initialise
from fl_client.settings import DeviceSettings
from fl_client.status import STALE_SECONDS, describe


def test_what_was_given_is_what_is_read(device: DeviceHome) -> None:
    settings = load_settings(DeviceSettings, device.config)
    assert (settings.name, settings.server) == ("kitchen", "127.0.0.1:1")
    assert b"BEGIN CERTIFICATE" in device.coordinator_certificate.read_bytes()
    assert device.coordinator_certificate.parent.stat().st_mode & 0o777 == 0o700


def test_an_existing_device_is_left_alone(device: DeviceHome) -> None:
    before = device.config.read_bytes()
    with pytest.raises(DeviceError, match="FA-4004"):
        initialise(device, server="other:1", ca=device.coordinator_certificate, name="other")
    assert device.config.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "server"),
    [
        ("", "a:1"),
        ("two words", "a:1"),
        ("a/b", "a:1"),
        ("a\n", "a:1"),
        ("x" * 65, "a:1"),
        ("a", "a"),
        ("a", "https://a:1/x"),
        ("a", "a b:1"),
        ("a", ""),
    ],
)
def test_an_impossible_name_or_address_is_refused_before_anything_is_made(
    device: DeviceHome, name: str, server: str, tmp_path: Path
) -> None:
    home = DeviceHome(tmp_path / "new")
    with pytest.raises(ConfigError, match="FA-6003"):
        initialise(home, server=server, ca=device.coordinator_certificate, name=name)
    assert not home.root.exists()


@pytest.mark.parametrize("data", [None, b"", b"not a certificate", b"\xff" * 100])
def test_what_is_not_a_certificate_is_refused(data: bytes | None, tmp_path: Path) -> None:
    ca = tmp_path / "ca"
    if data is not None:
        ca.write_bytes(data)
    with pytest.raises(DeviceError, match="FA-4005"):
        initialise(DeviceHome(tmp_path / "new"), server="a:1", ca=ca, name="a")
    assert not (tmp_path / "new").exists()


def test_a_file_in_the_place_of_the_folder_is_explained(device: DeviceHome, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="FA-8001"):
        initialise(DeviceHome(tmp_path / "file"), server="a:1", ca=device.coordinator_certificate, name="a")


def test_the_folder_is_that_given_or_that_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDAUDIO_HOME", str(tmp_path / "environment"))
    assert DeviceHome.find(tmp_path / "given").root == tmp_path / "given"
    assert DeviceHome.find(None).root == tmp_path / "environment"
    monkeypatch.delenv("FEDAUDIO_HOME")
    assert DeviceHome.find(None).root.name == "device"


class TestStatus:
    def test_nothing_runs(self, device: DeviceHome) -> None:
        status = describe(device)
        assert (status["name"], status["clips"], status["version"]) == ("kitchen", 6, None)
        assert status["link"] is None
        assert status["listener"] is None

    def test_a_fresh_report_counts_and_a_stale_or_damaged_one_does_not(self, device: DeviceHome) -> None:
        device.link_status.write_text(json.dumps({"linked": True}))
        assert describe(device)["link"] == {"linked": True}
        old = time.time() - STALE_SECONDS - 1
        os.utime(device.link_status, (old, old))
        assert describe(device)["link"] is None
        device.link_status.write_text("{half")
        assert describe(device)["link"] is None
