"""The picture of a recording shows what a listener would have reported."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from common.audio.front_end import SAMPLE_RATE, LogMel
from common.errors import DeviceError
from common.evaluation.streams import talk_in_noise
from fedaudio.cli import app
from fl_client.home import DeviceHome
from fl_client.listen.events import Event
from fl_client.listen.recognizer import Recognizer
from fl_client.listen.settings import ListenSettings
from fl_client.plot import DYNAMICS_DB, draw, listen_to, log_mel, plot_recording
from fl_client.store import ModelStore
from tests.fl_client.listen.made_releases import make_release, make_task
from tests.made_manifests import put


@pytest.fixture(scope="module")
def sound() -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return next(iter(talk_in_noise(8.0, 20.0, np.random.default_rng(0)))).samples


def test_the_events_are_the_listeners(sound: np.ndarray[tuple[int], np.dtype[np.float32]]) -> None:
    release, owner = make_release(1).release, ListenSettings(thresholds={"yes": 0.5})
    course = listen_to(release, owner, sound)
    live = Recognizer(release, owner).feed(sound)
    assert [(event.label, event.end) for event in course.events] == [(each.label, each.end) for each in live]
    assert course.events
    for event in course.events:
        hop = int(np.flatnonzero(np.isclose(course.ends, event.end))[0])
        column = release.manifest.task.labels.index(event.label)
        assert course.scores[hop, column] == pytest.approx(event.score, abs=1e-6)


def test_a_tone_is_bright_where_it_is() -> None:
    shape = LogMel()
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    tone = np.where(time < 0.5, np.sin(2 * np.pi * 1000 * time), 0.0).astype(np.float32)
    levels = log_mel(tone, shape)
    assert levels.shape == (shape.frames(SAMPLE_RATE), shape.bands)
    assert levels.max() == pytest.approx(0.0)
    assert levels.min() == pytest.approx(-DYNAMICS_DB)
    assert (levels[-20:] == levels.min()).all()
    assert np.ptp(levels[5:40].argmax(axis=1)) == 0


def test_a_file_becomes_a_picture(
    sound: np.ndarray[tuple[int], np.dtype[np.float32]], tmp_path: Path
) -> None:
    place = DeviceHome(tmp_path)
    put(ModelStore(place.models, place.root / "marks.json"), make_release(1).files)
    soundfile.write(tmp_path / "heard.wav", sound, SAMPLE_RATE, subtype="FLOAT")
    out = tmp_path / "pictures" / "heard.png"
    events = plot_recording(place, ListenSettings(), f"file:{tmp_path / 'heard.wav'}", out)
    assert events
    assert out.read_bytes().startswith(b"\x89PNG")
    again = tmp_path / "again.png"
    plot_recording(place, ListenSettings(), f"file:{tmp_path / 'heard.wav'},fast", again)
    assert again.read_bytes() == out.read_bytes()


def test_labels_with_dollars_are_drawn_as_they_are(
    sound: np.ndarray[tuple[int], np.dtype[np.float32]], tmp_path: Path
) -> None:
    release = make_release(1, task=make_task(labels=("$^$", "no", "background"))).release
    course = replace(listen_to(release, ListenSettings(), sound), events=(Event("$^$", 0.9, 0.0, 1.0, 1),))
    draw(release, ListenSettings(), sound, course, tmp_path / "heard.png")
    assert (tmp_path / "heard.png").read_bytes().startswith(b"\x89PNG")


def test_even_a_click_becomes_a_picture(tmp_path: Path) -> None:
    place = DeviceHome(tmp_path)
    put(ModelStore(place.models, place.root / "marks.json"), make_release(1).files)
    soundfile.write(tmp_path / "click.wav", np.ones(3), SAMPLE_RATE)
    assert plot_recording(place, ListenSettings(), f"file:{tmp_path / 'click.wav'}", tmp_path / "c.png") == ()
    assert (tmp_path / "c.png").is_file()


@pytest.mark.parametrize("source", ["mic", "stdin", "file:", "file:,fast", "dir:/tmp"])
def test_what_is_no_file_cannot_be_drawn(source: str, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="FA-4203"):
        plot_recording(DeviceHome(tmp_path), ListenSettings(), source, tmp_path / "out.png")


@pytest.mark.parametrize("more", [["--levels"], ["--on-event", "true"]])
def test_a_picture_is_all_that_is_made(more: list[str], tmp_path: Path) -> None:
    command = ["client", "listen", "file:heard.wav", "--plot", str(tmp_path / "out.png"), *more]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 2
    assert more[0] in done.stderr


def test_without_a_model_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="FA-4220"):
        plot_recording(DeviceHome(tmp_path), ListenSettings(), "file:heard.wav", tmp_path / "out.png")


def test_a_listener_carries_no_matplotlib() -> None:
    script = "import sys, fl_client.listen.__main__, fl_client.cli; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
