"""`fedaudio client clips`: all sound on a device, and how nothing stays of it."""

from __future__ import annotations

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
import soundfile

from common.errors import DeviceError
from common.files import locked
from fl_client.device_clips import delete_clips, purge_all, purge_kept, stored_clips
from fl_client.feedback import give_feedback
from fl_client.heard import HeardFolder
from fl_client.home import DeviceHome
from tests.fl_client.kept_sounds import SOUND, allow, clips_in_a_round, install, keep, keep_window
from tests.processes import run_cli


@pytest.fixture
def kitchen(device: DeviceHome) -> DeviceHome:
    install(device, "high", "low", "background")
    return device


def cli(home: DeviceHome, *arguments: str) -> dict[str, object]:
    done = run_cli("client", "clips", *arguments, "--home", str(home.root), "--json")
    document: dict[str, object] = json.loads(done.stdout)
    return document


def compute(home: DeviceHome) -> None:
    allow(home, self_training=True)
    clips_in_a_round(home, 1)
    assert list(home.cache.glob("*.npy"))


def test_all_sound_is_listed(kitchen: DeviceHome) -> None:
    event = keep(kitchen)
    give_feedback(kitchen, event, "low", speaker="anna")
    window = keep_window(kitchen, 1, 0.99)
    (kitchen.clips / "_background_noise_").mkdir()
    soundfile.write(kitchen.clips / "_background_noise_" / "hum.wav", SOUND, 16_000)
    (kitchen.clips / "low" / "torn.flac").write_bytes(b"fLaC")
    clips = stored_clips(kitchen)
    origins = [clip.origin for clip in clips]
    assert (origins.count("imported"), len(clips)) == (8, 11)
    (made,) = [clip for clip in clips if clip.origin == "feedback"]
    assert (made.id, made.label, made.seconds, made.speaker) == (event, "low", 0.25, "anna")
    (kept,) = [clip for clip in clips if clip.origin == "kept"]
    assert (kept.id, kept.label) == (event, "high")
    assert [clip.id for clip in clips if clip.origin == "self"] == [window]
    assert [clip.path.name for clip in clips if clip.seconds is None] == ["torn.flac"]
    assert len({clip.id for clip in clips}) == 10


def test_nothing_stays_of_what_is_deleted(kitchen: DeviceHome) -> None:
    event = keep(kitchen)
    give_feedback(kitchen, event, "low")
    compute(kitchen)
    imported = next(clip for clip in stored_clips(kitchen) if clip.origin == "imported")
    assert delete_clips(kitchen, [event, imported.id]) == 3
    assert {event, imported.id}.isdisjoint(clip.id for clip in stored_clips(kitchen))
    assert not imported.path.exists()
    assert not [file for file in kitchen.cache.rglob("*") if file.is_file()]
    assert list(kitchen.heard.iterdir()) == []


def test_a_round_that_reads_the_clips_is_waited_for(kitchen: DeviceHome) -> None:
    with locked(kitchen.clips_lock):
        purging = threading.Thread(target=purge_all, args=(kitchen,))
        purging.start()
        purging.join(0.2)
        assert purging.is_alive()
        kitchen.cache.mkdir(exist_ok=True)
        (kitchen.cache / "late.npy").write_bytes(b"of a clip")
    purging.join(60)
    assert not (kitchen.cache / "late.npy").exists()


def test_a_round_does_not_use_what_is_being_deleted(kitchen: DeviceHome) -> None:
    before = clips_in_a_round(kitchen, 1)
    with ThreadPoolExecutor(1) as threads, locked(kitchen.clips_lock):
        waiting = threads.submit(clips_in_a_round, kitchen, 2)
        with suppress(TimeoutError):
            waiting.result(0.5)
        next(kitchen.clips.glob("high/*.flac")).unlink()
    assert waiting.result(60) == before - 1


def test_nothing_is_deleted_if_an_id_is_unknown(kitchen: DeviceHome) -> None:
    event = keep(kitchen)
    with pytest.raises(DeviceError) as caught:
        delete_clips(kitchen, [event, "0" * 16])
    assert caught.value.code == "FA-4255"
    assert HeardFolder(kitchen.heard).find(event)


def test_with_an_event_goes_what_overlaps_with_it_and_nobody_has_labelled(kitchen: DeviceHome) -> None:
    event = keep(kitchen)
    other = keep(kitchen, stretch=event)
    keep_window(kitchen, 1, 0.99, stretch=event)
    apart = keep_window(kitchen, 2, 0.99)
    assert delete_clips(kitchen, [event]) == 2
    assert {one.id for one in HeardFolder(kitchen.heard)} == {other, apart}
    assert delete_clips(kitchen, [apart]) == 1
    assert [one.id for one in HeardFolder(kitchen.heard)] == [other]


@pytest.mark.parametrize("facts", ["null", "{", '{"id": "x"}', '{"score": NaN}'])
def test_what_is_damaged_is_listed_and_can_be_deleted(kitchen: DeviceHome, facts: str) -> None:
    folder = HeardFolder(kitchen.heard)
    names = [keep_window(kitchen, number, 0.99) for number in range(3)]
    sidecar = folder.sound(names[0]).with_suffix(".json")
    sidecar.write_text(facts)
    os.utime(sidecar, (1, 1))
    os.utime(folder.sound(names[0]), (1, 1))
    folder.sound(names[1]).write_bytes(b"RIFF")
    listed = {clip.id: (clip.label, clip.seconds) for clip in stored_clips(kitchen)}
    assert (listed[names[0]], listed[names[1]]) == (("-", None), ("-", None))
    assert delete_clips(kitchen, names[:2]) == 2
    assert sorted(path.stem for path in kitchen.heard.iterdir()) == [names[2]] * 2


def test_what_was_kept_goes_and_labelled_clips_stay(kitchen: DeviceHome) -> None:
    event = keep(kitchen)
    give_feedback(kitchen, event, "low")
    keep_window(kitchen, 1, 0.99)
    compute(kitchen)
    (kitchen.heard / ".torn.wav.x").write_bytes(b"RIFF")
    assert purge_kept(kitchen) == 2
    assert list(kitchen.heard.iterdir()) == []
    assert not list(kitchen.cache.glob("*.npy"))
    assert {clip.origin for clip in stored_clips(kitchen)} == {"imported", "feedback"}


def test_all_goes(kitchen: DeviceHome) -> None:
    give_feedback(kitchen, keep(kitchen), "low")
    compute(kitchen)
    count = len(stored_clips(kitchen))
    assert purge_all(kitchen) == count == 8
    assert stored_clips(kitchen) == []
    sounds = [file for file in kitchen.root.rglob("*") if file.suffix in {".wav", ".flac", ".npy"}]
    assert sounds == []
    assert kitchen.clips.is_dir()


def test_the_commands(kitchen: DeviceHome) -> None:
    event = keep(kitchen)
    home = str(kitchen.root)
    said = run_cli("client", "feedback", "last", "wrong", "--home", home, "--json")
    assert json.loads(said.stdout) == {
        "event": event,
        "heard": "high",
        "verdict": "wrong",
        "label": "background",
        "task": "main",
    }
    listed = cli(kitchen, "list")["clips"]
    assert isinstance(listed, list)
    assert {clip["origin"] for clip in listed} == {"imported", "feedback", "kept"}
    assert cli(kitchen, "delete", event) == {"deleted": 2}
    assert cli(kitchen, "delete", event)["error"] == "FA-4255"
    keep(kitchen)
    assert run_cli("client", "clips", "purge", "--kept", "--home", home).returncode != 0
    assert list(HeardFolder(kitchen.heard))
    assert run_cli("client", "clips", "purge", "--yes", "--home", home).returncode != 0
    assert cli(kitchen, "purge", "--kept", "--yes") == {"deleted": 1}
    assert cli(kitchen, "purge", "--all", "--yes") == {"deleted": 6}
    empty = run_cli("client", "feedback", "last", "right", "--home", home)
    assert empty.returncode == 5
    assert "FA-4250" in empty.stderr
    assert "[keep]" in empty.stderr
