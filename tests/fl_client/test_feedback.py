"""What the owner says about events becomes clips, and clips become part of a round."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import soundfile
import tomli_w

from common.data.clips import Clip, Clips
from common.data.features import load_features
from common.errors import DeviceError, FedAudioError
from common.privacy.units import units_of
from common.protocol.plan import parse_plan
from fl_client.device_clips import delete_clips
from fl_client.feedback import Feedback, give_feedback
from fl_client.heard import HeardFolder
from fl_client.home import DeviceHome
from fl_client.listen.events import Event, EventLog
from fl_client.listen.trials import Trials
from fl_client.material import labelled_clips, self_labelled_clips
from tests.fl_client.kept_sounds import (
    SOUND,
    allow,
    clips_from,
    clips_in_a_round,
    install,
    keep,
    keep_window,
)
from tests.fl_client.listen.made_releases import make_release
from tests.fl_client.made_identity import make_home
from tests.fl_client.made_tasks import name_tasks
from tests.fl_client.test_training_process import TASK, order
from tests.processes import ROOT


@pytest.fixture
def kitchen(device: DeviceHome) -> DeviceHome:
    install(device, "high", "low", "background")
    return device


def test_right_makes_a_clip_of_the_very_sound(kitchen: DeviceHome) -> None:
    event = keep(kitchen)
    assert give_feedback(kitchen, event, "right") == Feedback(event, "high", "right", "high", "main")
    (file,) = clips_from(kitchen, event)
    sound, rate = soundfile.read(file, dtype="int16")
    np.testing.assert_array_equal(sound, SOUND)
    assert rate == 16_000
    assert file.parent.name == "high"
    assert file.stat().st_mode & 0o777 == 0o600
    line = json.loads(kitchen.feedback.read_text())
    assert (line["event"], line["verdict"], line["label"]) == (event, "right", "high")
    assert kitchen.feedback.stat().st_mode & 0o777 == 0o600


def test_the_last_event_is_meant_and_no_other_message(kitchen: DeviceHome) -> None:
    keep(kitchen, "low")
    event = keep(kitchen, "high")
    with kitchen.events.open("a") as log:
        log.write(json.dumps({"type": "level", "id": "0" * 16}) + "\n" + '{"type": "event", "id": "to')
    assert give_feedback(kitchen, "last", "right").event == event


def test_another_word_replaces_the_first(kitchen: DeviceHome) -> None:
    event = keep(kitchen)
    for verdict, label in (
        ("right", "high"),
        ("low", "low"),
        ("label:high", "high"),
        ("wrong", "background"),
    ):
        assert give_feedback(kitchen, event, verdict).label == label
        assert [file.parent.name for file in clips_from(kitchen, event)] == [label]
    give_feedback(kitchen, event, "right", speaker="anna")
    (clip,) = [clip for clip in Clips.load(kitchen.clips) if clip.group == event]
    assert (clip.label, clip.speaker) == ("high", "anna")
    assert len(kitchen.feedback.read_text().splitlines()) == 5


def test_wrong_is_not_used_where_the_task_has_no_label_for_nothing(device: DeviceHome) -> None:
    install(device, "high", "low", "silence")
    event = keep(device)
    give_feedback(device, event, "right")
    assert give_feedback(device, event, "wrong").label is None
    assert clips_from(device, event) == []
    assert not list(device.cache.glob("*.npy"))


def test_a_wrong_event_is_best_an_unknown_word(device: DeviceHome) -> None:
    install(device, "high", "background", "_unknown_")
    assert give_feedback(device, keep(device), "wrong").label == "_unknown_"


@pytest.mark.parametrize(
    ("labels", "verdict", "code"),
    [
        (("high", "low"), "hihg", "FA-4252"),
        (("high", "low"), "../low", "FA-4252"),
        (("high", "right"), "right", "FA-4253"),
        (("low", "lower"), "right", "FA-4252"),
    ],
)
def test_a_word_that_is_no_verdict(
    device: DeviceHome, labels: tuple[str, ...], verdict: str, code: str
) -> None:
    install(device, *labels)
    event = keep(device)
    with pytest.raises(DeviceError) as caught:
        give_feedback(device, event, verdict)
    assert caught.value.code == code
    assert clips_from(device, event) == []
    assert not device.feedback.exists()
    if verdict == "hihg":
        assert "'high'" in caught.value.remedy


def test_a_label_that_is_spelled_like_a_verdict_can_be_named(device: DeviceHome) -> None:
    install(device, "high", "right")
    assert give_feedback(device, keep(device), "label:right").label == "right"
    assert give_feedback(device, keep(device, "right"), "right").label == "right"


def test_what_was_heard_as_a_word_like_a_verdict_is_not_guessed_wrong(device: DeviceHome) -> None:
    install(device, "wrong", "high", "unknown")
    event = keep(device, "wrong")
    with pytest.raises(DeviceError, match="FA-4253"):
        give_feedback(device, event, "wrong")
    assert not device.feedback.exists()
    assert give_feedback(device, event, "label:wrong").label == "wrong"
    assert give_feedback(device, event, "label:unknown").label == "unknown"


@pytest.mark.parametrize("noise", ["background_noise", "_background_noise_"])
def test_a_wrong_event_is_not_used_where_its_label_is_the_folder_of_noise(
    device: DeviceHome, noise: str
) -> None:
    install(device, "high", noise)
    event = keep(device)
    assert give_feedback(device, event, "wrong").label is None
    assert clips_from(device, event) == []


def test_events_that_cannot_be_judged(kitchen: DeviceHome) -> None:
    def code(event: str, home: DeviceHome = kitchen, speaker: str | None = None) -> str:
        with pytest.raises(FedAudioError) as caught:
            give_feedback(home, event, "right", speaker)
        return caught.value.code

    assert code("last") == "FA-4251"
    unkept = EventLog(kitchen.events)(Event("high", 0.9, 1.0, 1.25, 1))
    assert code(str(unkept)) == code("last") == "FA-4250"
    assert code("../../../etc/passwd") == code("f" * 16) == "FA-4251"
    assert code(keep_window(kitchen, 1, 0.99)) == "FA-4251"
    event = keep(kitchen)
    assert code(event, speaker="../anna") == "FA-2006"
    sound = HeardFolder(kitchen.heard).sound(event)
    sound.write_bytes(sound.read_bytes()[:1_000])
    assert code(event) == "FA-4250"
    assert clips_from(kitchen, event) == []


class TestEventsOfFurtherTasks:
    @pytest.fixture
    def scene(self, kitchen: DeviceHome, tmp_path: Path) -> DeviceHome:
        scene = make_home(tmp_path / "scene").home
        install(scene, "rain", "wind", "background")
        name_tasks(kitchen, scene="../scene")
        return scene

    def test_their_clips_go_to_the_folder_of_their_task(self, kitchen: DeviceHome, scene: DeviceHome) -> None:
        before = set(kitchen.clips.rglob("*"))
        event = keep(kitchen, "rain", of=("scene", scene))
        assert give_feedback(kitchen, "last", "wind") == Feedback(event, "rain", "wind", "wind", "scene")
        (file,) = clips_from(scene, event)
        assert file.parent == scene.clips / "wind"
        assert set(kitchen.clips.rglob("*")) == before
        # What is known of it is in that folder too, where it is learned from.
        line = json.loads(scene.feedback.read_text())
        assert (line["event"], line["label"]) == (event, "wind")
        assert "task" not in line
        assert not kitchen.feedback.exists()

    def test_each_task_has_its_own_labels(self, kitchen: DeviceHome, scene: DeviceHome) -> None:
        of_scene, own = keep(kitchen, "rain", of=("scene", scene)), keep(kitchen, "high")
        for event, verdict in ((of_scene, "high"), (own, "rain")):
            with pytest.raises(DeviceError, match="FA-4252"):
                give_feedback(kitchen, event, verdict)
        assert give_feedback(kitchen, own, "low").task == "main"
        assert give_feedback(kitchen, of_scene, "wrong").label == "background"
        assert [clip.parent.parent for clip in clips_from(kitchen, own)] == [kitchen.clips]

    def test_their_folder_takes_feedback_too(self, kitchen: DeviceHome, scene: DeviceHome) -> None:
        event = keep(kitchen, "rain", of=("scene", scene))
        assert give_feedback(scene, event, "right").label == "rain"
        assert len(clips_from(scene, event)) == 1

    def test_an_unkept_one_says_whose_device_toml_to_change(
        self, kitchen: DeviceHome, scene: DeviceHome
    ) -> None:
        EventLog(kitchen.events)(Event("rain", 0.9, 1.0, 1.25, 1, "scene"))
        with pytest.raises(DeviceError, match="FA-4250") as caught:
            give_feedback(kitchen, "last", "right")
        assert str(scene.config) in caught.value.remedy


def test_no_model_no_labels(device: DeviceHome) -> None:
    with pytest.raises(DeviceError) as caught:
        give_feedback(device, keep(device), "right")
    assert caught.value.code == "FA-4254"


def test_many_words_at_a_time_leave_one_clip(kitchen: DeviceHome) -> None:
    event = keep(kitchen)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: give_feedback(kitchen, event, ("high", "low", "wrong")[n % 3]), range(24)))
    last = json.loads(kitchen.feedback.read_text().splitlines()[-1])
    assert [file.parent.name for file in clips_from(kitchen, event)] == [last["label"]]


FLICKER = """
import sys
from pathlib import Path
from fl_client.feedback import give_feedback
from fl_client.home import DeviceHome

print("ready", flush=True)
for number in range(1_000_000):
    give_feedback(DeviceHome(Path(sys.argv[1])), sys.argv[2], ("high", "low", "wrong", "right")[number % 4])
"""


def test_a_kill_at_any_moment_leaves_one_whole_clip_or_none(kitchen: DeviceHome) -> None:
    event = keep(kitchen)
    for milliseconds in (1, 4, 9, 17):
        child = subprocess.Popen(
            [sys.executable, "-c", FLICKER, str(kitchen.root), event], stdout=subprocess.PIPE, cwd=ROOT
        )
        assert child.stdout is not None
        child.stdout.readline()
        with suppress(subprocess.TimeoutExpired):
            child.wait(milliseconds / 1000)
        child.kill()
        child.communicate()
        files = clips_from(kitchen, event)
        assert len(files) <= 1
        for file in files:
            np.testing.assert_array_equal(soundfile.read(file, dtype="int16")[0], SOUND)
    give_feedback(kitchen, event, "low")
    assert [file.parent.name for file in clips_from(kitchen, event)] == ["low"]
    assert clips_in_a_round(kitchen, 1) == 7


def test_the_clip_counts_in_the_next_round(kitchen: DeviceHome) -> None:
    before = clips_in_a_round(kitchen, 1)
    event = keep(kitchen)
    give_feedback(kitchen, event, "low")
    assert clips_in_a_round(kitchen, 2) == before + 1
    clips = Clips.load(kitchen.clips)
    data = load_features(clips, TASK, kitchen.cache)
    index = next(number for number, clip in enumerate(clips) if clip.group == event)
    assert data.labels[data.clip_index == index].tolist() == [TASK.labels.index("low")]
    delete_clips(kitchen, [event])
    assert clips_in_a_round(kitchen, 3) == before


class TestOneStretchOfSoundIsOneUnit:
    """What one epsilon protects is the whole of a unit, so no sound may be in two."""

    def used(self, home: DeviceHome, unit: str) -> Clips:
        """The clips of events and the windows that a private round uses."""
        private = {"noise_multiplier": 1.0, "delta": 1e-5, "unit": unit, "units": 10}
        plan = parse_plan(order(privacy=private))
        labelled = labelled_clips(home, plan)
        clips = Clips([*labelled, *self_labelled_clips(home, plan, labelled)])
        return clips.filter(lambda clip: clip.group is not None and re.fullmatch(r"[0-9a-f]{16}", clip.group))

    def units(self, home: DeviceHome, unit: Literal["clip", "recording", "speaker"]) -> list[list[int]]:
        """How many windows each clip of each unit has."""
        data = load_features(self.used(home, unit), TASK, home.cache)
        return [[len(windows) for windows in clips] for clips in units_of(data, unit).clips]

    @pytest.fixture
    def events(self, kitchen: DeviceHome) -> list[str]:
        """Four that were judged: the first two overlap, and the last is of another person."""
        first = keep(kitchen)
        second = keep(kitchen, "low", np.roll(SOUND, 1), stretch=first)
        others = [keep(kitchen, sound=np.roll(SOUND, shift)) for shift in (2, 3)]
        for event, speaker in zip((first, second, *others), ("anna", "anna", "anna", "ben"), strict=True):
            give_feedback(kitchen, event, "right", speaker=speaker)
        return [first, second, *others]

    def test_events_that_overlap_are_one_recording(self, kitchen: DeviceHome, events: list[str]) -> None:
        assert sorted(map(len, self.units(kitchen, "recording"))) == [1, 1, 2]

    @pytest.mark.parametrize("unit", ["clip", "recording", "speaker"])
    def test_without_one_clip_nothing_else_comes_or_goes(
        self, kitchen: DeviceHome, events: list[str], unit: str
    ) -> None:
        allow(kitchen, self_training=True, share=1.0)
        for number in range(8):
            keep_window(kitchen, number, 0.9 + number / 100)
        before = {clip.path for clip in self.used(kitchen, unit)}
        gone = next(clip.path for clip in self.used(kitchen, unit) if clip.group == events[2])
        gone.unlink()
        assert {clip.path for clip in self.used(kitchen, unit)} == before - {gone}

    def test_of_clips_that_overlap_one_is_used(self, kitchen: DeviceHome, events: list[str]) -> None:
        assert sorted(clip.group or "" for clip in self.used(kitchen, "clip")) == sorted(
            {events[0], *events[2:]}
        )
        assert len(self.units(kitchen, "clip")) == 3

    def test_no_sound_is_two_speakers(self, kitchen: DeviceHome, events: list[str]) -> None:
        assert sorted(map(len, self.units(kitchen, "speaker"))) == [1, 3]
        give_feedback(kitchen, events[1], "right", speaker="ben")
        assert sorted(map(len, self.units(kitchen, "speaker"))) == [1, 2]

    def test_without_privacy_all_are_used(self, kitchen: DeviceHome, events: list[str]) -> None:
        clips = labelled_clips(kitchen, parse_plan(order()))
        assert sum(clip.group in events for clip in clips) == len(events)


def test_who_was_heard_must_be_known_where_speakers_are_protected(kitchen: DeviceHome) -> None:
    unnamed, named = keep(kitchen), keep(kitchen, sound=SOUND[::-1].copy())
    give_feedback(kitchen, unnamed, "right")
    give_feedback(kitchen, named, "right", speaker="anna")
    keep_window(kitchen, 1, 0.99)
    allow(kitchen, self_training=True)
    private = {"noise_multiplier": 1.0, "delta": 1e-5, "unit": "speaker", "units": 10}
    plan = parse_plan(order(privacy=private))
    clips = labelled_clips(kitchen, plan)
    assert [clip.group for clip in clips if clip.group in (named, unnamed)] == [named]
    assert len(self_labelled_clips(kitchen, plan, clips)) == 0


class TestSelfTraining:
    """Windows that nobody has labelled."""

    def names(self, home: DeviceHome, labelled: int = 100, **changes: object) -> list[str]:
        clips = Clips(Clip(Path(f"{number}.wav"), "high") for number in range(labelled))
        guessed = self_labelled_clips(home, parse_plan(order(**changes)), clips)
        return [clip.path.stem for clip in guessed]

    def test_none_is_used_unless_the_owner_says_so(self, kitchen: DeviceHome) -> None:
        keep_window(kitchen, 1, 0.99)
        assert self.names(kitchen) == []
        allow(kitchen, self_training=False)
        assert self.names(kitchen) == []

    def test_the_surest_are_used_to_their_share(self, kitchen: DeviceHome) -> None:
        allow(kitchen, self_training=True, least_score=0.9, share=0.5)
        scores = (0.95, 0.89, 0.99, 0.92)
        names = [keep_window(kitchen, number, score) for number, score in enumerate(scores)]
        keep_window(kitchen, 9, 0.99, label="strange")
        keep(kitchen)
        assert self.names(kitchen) == [names[2], names[0], names[3]]
        assert self.names(kitchen, labelled=5) == [names[2], names[0]]
        assert self.names(kitchen, labelled=1) == []

    def test_what_the_owner_has_judged_is_not_guessed(self, kitchen: DeviceHome) -> None:
        allow(kitchen, self_training=True)
        event = keep(kitchen)
        before, after = keep_window(kitchen, 1, 0.99, stretch=event), keep_window(kitchen, 2, 0.98)
        assert self.names(kitchen) == [before, after]
        give_feedback(kitchen, event, "wrong")
        assert self.names(kitchen) == [after]
        HeardFolder(kitchen.heard).remove(event)
        assert self.names(kitchen) == [after]

    def test_a_torn_line_does_not_take_the_next_word_along(self, kitchen: DeviceHome) -> None:
        allow(kitchen, self_training=True)
        event = keep(kitchen)
        keep_window(kitchen, 1, 0.99, stretch=event)
        kitchen.feedback.write_text('{"torn by a power c')
        give_feedback(kitchen, event, "wrong")
        assert json.loads(kitchen.feedback.read_text().splitlines()[-1])["event"] == event
        assert self.names(kitchen) == []

    @pytest.mark.parametrize(
        "line", ['{"stretch": ["x"]}', "[]", "7", "null", '{"torn by a power c', "[" * 90_000]
    )
    def test_lines_that_say_nothing(self, kitchen: DeviceHome, line: str) -> None:
        allow(kitchen, self_training=True)
        name = keep_window(kitchen, 1, 0.99)
        kitchen.feedback.write_text(line)
        assert self.names(kitchen) == [name]

    def test_a_sound_is_not_learned_from_twice(self, kitchen: DeviceHome) -> None:
        allow(kitchen, self_training=True)
        first = keep_window(kitchen, 1, 0.98)
        surer = keep_window(kitchen, 2, 0.99, stretch=first)
        assert self.names(kitchen) == [surer]

    def test_what_a_release_has_heard_that_failed_is_not_learned_from(self, kitchen: DeviceHome) -> None:
        allow(kitchen, self_training=True)
        name = keep_window(kitchen, 1, 0.99, version=1)
        for version in (2, 3):
            keep_window(kitchen, version, 0.99, version=version)
        assert len(self.names(kitchen)) == 3
        trials = Trials(kitchen.trial)
        trials.settle(make_release(1).release, proved=True, shadowed=False)
        trials.fail(make_release(2).release, "its scores are not numbers")
        trials.begin(make_release(3).release)
        assert self.names(kitchen) == [name]
        trials.settle(make_release(3).release, proved=True, shadowed=False)
        assert len(self.names(kitchen)) == 2

    def test_what_would_not_be_reported_is_not_learned_from(self, kitchen: DeviceHome) -> None:
        allow(kitchen, self_training=True, least_score=0.1)
        task = TASK.model_dump() | {"trigger": {"threshold": 0.7}}
        high, low = keep_window(kitchen, 1, 0.8, "high"), keep_window(kitchen, 2, 0.8, "low")
        keep_window(kitchen, 3, 0.6, "high")
        assert self.names(kitchen, task=task) == [high, low]
        settings = tomllib.loads(kitchen.config.read_text())
        kitchen.config.write_text(tomli_w.dumps(settings | {"listen": {"thresholds": {"low": 0.85}}}))
        assert self.names(kitchen, task=task) == [high]

    def test_they_are_trained_on_and_never_measured_with(self, kitchen: DeviceHome) -> None:
        allow(kitchen, self_training=True, share=1.0)
        plain = clips_in_a_round(kitchen, 1), clips_in_a_round(kitchen, 2, kind="evaluate", holdout=0.5)
        for number in range(4):
            keep_window(kitchen, number, 0.99)
        half = HeardFolder(kitchen.heard).sound(f"{0:016x}")
        half.write_bytes(half.read_bytes()[:1_000])
        guessed = clips_in_a_round(kitchen, 3), clips_in_a_round(kitchen, 4, kind="evaluate", holdout=0.5)
        assert guessed == (plain[0] + 3, plain[1])
        held = clips_in_a_round(kitchen, 5, holdout=0.5)
        assert held == plain[0] - plain[1] + 3

    def test_nothing_stays_of_windows_that_have_grown_too_old(self, kitchen: DeviceHome) -> None:
        allow(kitchen, self_training=True, share=1.0)
        for number in range(3):
            keep_window(kitchen, number, 0.99)
        clips_in_a_round(kitchen, 1)
        assert "heard" in "".join(file.read_text() for file in kitchen.cache.glob("*.json"))
        assert HeardFolder(kitchen.heard).trim(1e9, 1e-9) == 0
        clips_in_a_round(kitchen, 2)
        (table,) = kitchen.cache.glob("*.json")
        assert "heard" not in table.read_text()
        assert [file.stem for file in kitchen.cache.glob("*.npy")] == [table.stem]
