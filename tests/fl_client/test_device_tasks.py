"""Which folders a device listens for."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import tomli_w

from common.errors import ConfigError
from common.settings import load_settings, parse_settings
from fl_client.device_tasks import task_homes, warn_of_unused
from fl_client.home import DeviceHome
from fl_client.settings import DeviceSettings
from tests.fl_client.made_tasks import add_device, name_tasks

FACTS = {"name": "kitchen", "server": "127.0.0.1:1", "coordinator": "0" * 64}


@pytest.fixture
def kitchen(tmp_path: Path) -> DeviceHome:
    return add_device(tmp_path / "kitchen")


def homes_of(home: DeviceHome) -> dict[str, DeviceHome]:
    return task_homes(home, load_settings(DeviceSettings, home.config))


def test_a_device_alone_has_its_own_task(kitchen: DeviceHome) -> None:
    assert homes_of(kitchen) == {"main": kitchen}


def test_other_folders_are_found_from_the_devices_own(
    kitchen: DeviceHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene, alarm = add_device(tmp_path / "scene"), add_device(tmp_path / "alarm")
    name_tasks(kitchen, scene="../scene", alarm=str(alarm.root))
    monkeypatch.chdir("/")
    assert list(homes_of(kitchen).items()) == [("main", kitchen), ("scene", scene), ("alarm", alarm)]


@pytest.mark.parametrize("folder", ["../scene", "no such folder", "loop", "."])
def test_a_folder_that_is_no_devices_or_the_devices_own(kitchen: DeviceHome, folder: str) -> None:
    (kitchen.root.parent / "scene").mkdir()
    (kitchen.root / "loop").symlink_to("loop")
    name_tasks(kitchen, scene=folder)
    with pytest.raises(ConfigError) as caught:
        homes_of(kitchen)
    assert caught.value.code == ("FA-6011" if folder == "." else "FA-6010")
    assert str(kitchen.config) in caught.value.happened
    assert "'scene'" in caught.value.happened


def test_a_folder_that_is_named_twice_in_two_ways(kitchen: DeviceHome, tmp_path: Path) -> None:
    add_device(tmp_path / "scene")
    (tmp_path / "also").symlink_to("scene")
    name_tasks(kitchen, scene="../scene", again="../also")
    with pytest.raises(ConfigError, match="FA-6011") as caught:
        homes_of(kitchen)
    assert "'scene' and 'again'" in caught.value.happened


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ({"main": "../scene"}, "the device's own task"),
        ({"a/b": "../scene"}, "match"),
        ({"": "../scene"}, "match"),
        ({"x" * 33: "../scene"}, "match"),
        ({"k\xfcche": "../scene"}, "match"),
        ({"{{a": "../scene"}, "match"),
        ({"scene": ""}, "at least 1"),
        ({"scene": "a\0b"}, "match"),
        ({"scene": 1}, "string"),
        ({f"t{number}": f"../{number}" for number in range(9)}, "at most 8"),
    ],
)
def test_what_tasks_may_not_say(tasks: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match="FA-6003") as caught:
        parse_settings(DeviceSettings, FACTS | {"tasks": tasks}, "device.toml")
    assert words in caught.value.happened


def test_eight_tasks_with_names_that_toml_takes_bare() -> None:
    tasks = {"scene-2_B": "../scene"} | {f"{n}": f"../{n}" for n in range(7)}
    document = tomli_w.dumps(FACTS | {"tasks": tasks})
    assert '"scene-2_B"' not in document
    assert parse_settings(DeviceSettings, tomllib.loads(document), "device.toml").tasks == tasks


def test_what_is_set_in_vain_is_said(
    kitchen: DeviceHome, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    more = {"source": "mic", "listen": {"levels": True, "gate_db": 6.0}, "outlet": {"api": {}}}
    scene, alarm = add_device(tmp_path / "scene", **more), add_device(tmp_path / "alarm")
    name_tasks(kitchen, scene="../scene", alarm="../alarm")
    warn_of_unused(homes_of(kitchen))
    (record,) = caplog.records
    assert f"{scene.config}, whose task" in record.getMessage()
    assert record.getMessage().endswith(": listen.levels, outlet, source")
    assert str(alarm.config) not in caplog.text
