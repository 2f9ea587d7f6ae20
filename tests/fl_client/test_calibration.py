"""Thresholds for a rate of false accepts the owner chooses."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import bdtr
from typer.testing import CliRunner

from common.errors import DeviceError
from common.protocol.release import Release, open_release
from common.settings import load_settings
from common.task import Task, Trigger
from fedaudio.cli import app
from fl_client.calibration import Negatives, calibrate, poisson_bound
from fl_client.listen.pipeline import Pipeline, blocks
from fl_client.listen.settings import ListenSettings
from fl_client.listen.trigger import Detector
from fl_client.settings import DeviceSettings
from fl_client.store import ModelStore
from tests.fl_client.listen.made_releases import make_release, make_task, resealed_files
from tests.made_manifests import put

Sound = NDArray[np.float32]

TASK = make_task(trigger=Trigger(threshold=0.6, release=0.3, refractory_seconds=0.1))
WORDS = ("yes", "no", "stop")


@cache
def murmur(seconds: int = 40) -> Sound:
    """Noise that becomes another five times a second; an untrained model hears words in it."""
    rng = np.random.default_rng(0)
    pieces = []
    for _ in range(seconds * 5):
        shape = rng.standard_normal(rng.integers(2, 60))
        pieces.append(np.convolve(rng.standard_normal(3200), shape, "same") * rng.uniform(0.001, 0.05))
    return np.concatenate(pieces).astype(np.float32)


@cache
def files() -> dict[str, bytes]:
    """A model less sure of itself than those of other tests: its scores are anywhere from 0 to 1."""
    made = make_release(1, task=TASK)
    last = "classify.weight"
    return resealed_files(
        made, weights=made.release.weights | {last: made.release.weights[last] / np.float32(3)}
    )


@cache
def hesitant() -> Release:
    return open_release(files())


@cache
def negatives(smoothing: float | None = None) -> Negatives:
    heard = Negatives(hesitant(), ListenSettings(smoothing_seconds=smoothing))
    sound = murmur()
    heard.hear([sound[:100_000], sound[100_000:100_001]])
    heard.hear([sound[100_001:]])
    return heard


def test_the_bound_is_three_for_none_and_covers_what_it_says() -> None:
    assert poisson_bound(0) == pytest.approx(-np.log(0.05))
    for count in range(6):
        mean = poisson_bound(count)
        terms = [np.exp(-mean) * mean**k / float(np.prod(range(1, k + 1))) for k in range(count + 1)]
        assert sum(terms) == pytest.approx(0.05)


@cache
def scores() -> NDArray[np.float32]:
    pipeline = Pipeline(hesitant())
    return np.concatenate([pipeline.feed(block) for block in blocks(murmur())])


@settings(max_examples=25)
@given(
    thresholds=st.fixed_dictionaries({word: st.floats(0.3, 0.99) for word in WORDS}),
    smoothing=st.sampled_from([None, 0.1]),
)
def test_what_is_kept_of_the_recordings_gives_the_events_of_all_of_them(
    thresholds: dict[str, float], smoothing: float | None
) -> None:
    owner = ListenSettings(thresholds=thresholds, smoothing_seconds=smoothing)
    ends = np.arange(len(scores())) * TASK.front_end.hop + TASK.front_end.window
    events = [event.label for event in Detector(TASK, 1, owner).feed(scores(), ends)]
    found = negatives(smoothing).events(thresholds)
    assert {word: events.count(word) for word in WORDS} == {word: found[word] for word in WORDS}


@pytest.mark.parametrize("wish", [0.5, 500.0, 1000.0])
def test_no_more_false_accepts_than_wished_and_no_threshold_could_be_lower(wish: float) -> None:
    heard = negatives()
    found = calibrate(heard, wish)
    assert found.hours == pytest.approx(40 / 3600)
    assert set(found.thresholds) == set(WORDS)
    assert found.total <= wish * found.hours
    assert found.total == heard.events(found.thresholds).total()
    assert found.hours_needed == pytest.approx(2.9957 / wish, rel=1e-4)
    (threshold,) = set(found.thresholds.values())
    assert (0.3 if found.is_enough else 0.6) < threshold <= 0.9999
    # The next step down: an odds ratio of exp(0.2).
    lower = 1 / (1 + (1 - threshold) / threshold * np.exp(0.2))
    assert heard.events(dict.fromkeys(WORDS, lower)).total() > found.most >= found.total


def test_the_more_is_wished_the_lower_are_the_thresholds() -> None:
    strict, lax = (max(calibrate(negatives(), wish).thresholds.values()) for wish in (0.5, 1000.0))
    assert strict > lax


def test_silence_lowers_a_threshold_only_if_there_is_enough_of_it() -> None:
    heard = Negatives(hesitant(), ListenSettings())
    silence = np.zeros(3 * 16000, np.float32)
    heard.hear([silence])
    little = calibrate(heard, 1000.0)
    assert not little.is_enough
    assert set(little.thresholds.values()) == {TASK.trigger.threshold}
    heard.hear([silence] * 3)
    enough = calibrate(heard, 1000.0)
    assert enough.is_enough
    assert set(enough.thresholds.values()) == {TASK.trigger.release}
    assert enough.at_most == pytest.approx(poisson_bound(0) / enough.hours)


class Peaks:
    """Recordings in which each label has peaks by chance: `rate` an hour above even odds, and the higher the
    fewer, as odds have it."""

    def __init__(self, labels: int, hours: float, rate: float, rng: np.random.Generator) -> None:
        self.task = Task(labels=tuple(f"word {number}" for number in range(labels)), trigger=TASK.trigger)
        self.labels = self.task.labels
        self.samples = round(hours * 3600 * 16000)
        self._rate, self._lowest = rate, 0.3
        means = np.full(labels, self.mean(self._lowest) * hours)
        odds = self._lowest / (1 - self._lowest)
        drawn = [odds * np.exp(rng.exponential(size=count)) for count in rng.poisson(means)]
        self._peaks = {label: odds / (1 + odds) for label, odds in zip(self.labels, drawn, strict=True)}

    def mean(self, threshold: float) -> float:
        """Peaks of a label an hour that are truly above `threshold`."""
        return self._rate * (1 - threshold) / threshold

    def add(self, peaks: Iterable[float]) -> None:
        """Let the first label have these peaks as well."""
        self._peaks[self.labels[0]] = np.append(self._peaks[self.labels[0]], list(peaks))

    def events(self, thresholds: Mapping[str, float]) -> Counter[str]:
        return Counter({label: int((self._peaks[label] >= at).sum()) for label, at in thresholds.items()})


@pytest.mark.parametrize("labels", [2, 10, 30])
@pytest.mark.parametrize(("hours", "wish"), [(0.5, 1.0), (3.0, 1.0), (8.0, 1.0), (24.0, 0.5)])
def test_what_is_promised_at_95_percent_holds_in_95_percent(labels: int, hours: float, wish: float) -> None:
    """Whoever calibrates is told a rate that the thresholds found truly keep to: counted over many who do."""
    rng = np.random.default_rng(labels)
    calibrations, broken, wrong = 300, 0, 0
    for _ in range(calibrations):
        peaks = Peaks(labels, hours, 2.0, rng)
        try:
            found = calibrate(cast(Negatives, peaks), wish)
        except DeviceError:  # no threshold is high enough: nothing is promised
            continue
        rate = sum(map(peaks.mean, found.thresholds.values()))
        broken += rate > found.at_most
        wrong += found.is_enough and rate > wish
        assert found.is_enough == (found.at_most <= wish)
        if not found.is_enough:
            assert min(found.thresholds.values()) >= TASK.trigger.threshold
    # More of 300 come about by chance once in a thousand times, if each has a chance of 5 %.
    allowed = next(k for k in range(calibrations) if 1 - bdtr(k, calibrations, 0.05) < 0.001)
    assert max(broken, wrong) <= allowed


def test_enough_sound_with_too_many_false_accepts_promises_nothing() -> None:
    """Three hours show that there is no more than one false accept an hour if there is none, not if one."""
    for peaks, enough in (((), True), ((0.99999,), False)):
        heard = Peaks(2, 3.1, 0.0, np.random.default_rng(0))
        heard.add(peaks)
        found = calibrate(cast(Negatives, heard), 1.0)
        assert found.is_enough is enough
        assert found.hours > found.hours_needed
        assert (found.at_most <= 1.0) is enough
        assert set(found.thresholds.values()) == {TASK.trigger.release if enough else TASK.trigger.threshold}


def test_a_model_of_background_alone_has_nothing_to_calibrate() -> None:
    task = make_task(labels=("background", "unknown"))
    heard = Negatives(make_release(1, task=task).release, ListenSettings())
    heard.hear([np.zeros(16000, np.float32)])
    with pytest.raises(DeviceError, match="FA-4224"):
        calibrate(heard, 1.0)


def test_recordings_full_of_what_the_model_knows_have_no_threshold() -> None:
    heard = Negatives(make_release(1, task=TASK).release, ListenSettings())
    heard.hear([murmur()])
    with pytest.raises(DeviceError, match="FA-4223"):
        calibrate(heard, 1.0)


def test_without_sound_there_is_nothing_to_calibrate_with() -> None:
    with pytest.raises(DeviceError, match="FA-4221"):
        calibrate(Negatives(make_release(1, task=TASK).release, ListenSettings()), 1.0)


DEVICE = f"""# the one in the kitchen
name = "kitchen"
server = "localhost:8650"  # at home
coordinator = "{"0" * 64}"

[listen]
false_accepts_per_hour = 500  # I am patient
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    put(ModelStore(home / "models", home / "marks.json"), files())
    (home / "device.toml").write_text(DEVICE)
    (home / "device.toml").chmod(0o600)
    recordings = tmp_path / "recordings"
    (recordings / "evening").mkdir(parents=True)
    soundfile.write(recordings / "evening" / "one.flac", murmur()[:320_000], 16000)
    soundfile.write(recordings / "two.wav", murmur()[320_000:], 16000, subtype="FLOAT")
    (recordings / "broken.wav").write_bytes(b"no sound")
    (recordings / "notes.txt").write_text("not a recording")
    return home


def run(home: Path, *more: str) -> tuple[dict[str, object], str]:
    recordings = home.parent / "recordings"
    done = CliRunner().invoke(
        app, ["client", "calibrate", str(recordings), "--home", str(home), "--json", *more]
    )
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout), done.stderr


def test_the_command_changes_the_thresholds_and_nothing_else(home: Path) -> None:
    said, warnings = run(home)
    assert "broken.wav" in warnings
    assert "notes.txt" not in warnings
    assert said["hours"] == pytest.approx(40 / 3600, abs=1e-4)
    assert said["false_accepts_per_hour"] == 500
    assert said["enough"] is True
    text = (home / "device.toml").read_text()
    assert text.startswith(DEVICE)
    assert (home / "device.toml").stat().st_mode & 0o777 == 0o600
    labels = said["labels"]
    assert isinstance(labels, dict)
    settings = load_settings(DeviceSettings, home / "device.toml")
    assert settings.listen.thresholds == {name: facts["threshold"] for name, facts in labels.items()}
    again, _ = run(home, "--false-accepts-per-hour", "0.5")
    assert again["enough"] is False
    assert (home / "device.toml").read_text().count("[listen.thresholds]") == 1


def test_what_was_calibrated_before_makes_no_difference(home: Path) -> None:
    first, _ = run(home)
    lax, _ = run(home, "--false-accepts-per-hour", "1000")
    assert lax["labels"] != first["labels"]
    again, _ = run(home)
    assert again["labels"] == first["labels"]


def test_the_version_the_thresholds_were_measured_with_is_noted(home: Path) -> None:
    for _ in range(2):
        run(home)
        listen = load_settings(DeviceSettings, home / "device.toml").listen
        assert (listen.measured_with_another(1), listen.measured_with_another(2)) == (None, 1)
    assert (home / "device.toml").read_text().count("[listen.calibration]") == 1
    assert ListenSettings(calibration=listen.calibration).measured_with_another(2) is None  # no thresholds


def test_too_little_sound_is_said_and_makes_the_device_no_easier(home: Path) -> None:
    silence = home / "silence.wav"
    soundfile.write(silence, np.zeros(48_000), 16000)
    done = CliRunner().invoke(app, ["client", "calibrate", str(silence), "--home", str(home)])
    assert done.exit_code == 0, done.output
    assert "too little sound" in done.stdout
    assert "below the release's own" in done.stdout
    settings = load_settings(DeviceSettings, home / "device.toml")
    assert min(settings.listen.thresholds.values()) >= TASK.trigger.threshold


def test_a_folder_named_like_a_recording_is_none(home: Path) -> None:
    (home.parent / "recordings" / "old.wav").mkdir()
    _, warnings = run(home, "--dry-run")
    assert "old.wav" not in warnings


@pytest.mark.parametrize("wish", ["nan", "inf"])
def test_a_wish_is_a_number(home: Path, wish: str) -> None:
    command = ["client", "calibrate", str(home), "--home", str(home), "--false-accepts-per-hour", wish]
    done = CliRunner().invoke(app, command)
    # Outside of the range, or inside of it and yet no number.
    assert done.exit_code == 2 or "FA-6003" in str(done.exception)
    assert (home / "device.toml").read_text() == DEVICE


def test_a_dry_run_changes_nothing(home: Path) -> None:
    said, _ = run(home, "--dry-run")
    assert said["written"] is None
    assert (home / "device.toml").read_text() == DEVICE


def test_without_a_model_there_is_nothing_to_calibrate(tmp_path: Path) -> None:
    (tmp_path / "device.toml").write_text(DEVICE)
    done = CliRunner().invoke(app, ["client", "calibrate", str(tmp_path), "--home", str(tmp_path)])
    assert isinstance(done.exception, DeviceError)
    assert done.exception.code == "FA-4220"
