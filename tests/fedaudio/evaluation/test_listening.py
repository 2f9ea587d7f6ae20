"""What a trial of listening finds is what a listener would have done."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from common.audio.front_end import SAMPLE_RATE
from common.data.clips import Clips
from common.data.synthetic.corpus import make_corpus
from common.errors import TrainingError
from common.evaluation.streams import Stretch, Word, noise_alone, talk_in_noise
from common.task import Task
from fedaudio.evaluation.listening import Heard, decide, events_in, hear, sweep, with_threshold
from fedaudio.evaluation.trial import Sounds, listen_through
from fl_client.listen.recognizer import Recognizer
from tests.fl_client.listen.made_releases import make_release

LABELS = ("yes", "no", "background")
TASK = Task(labels=LABELS, width=16)


def nothing(done: float) -> None:
    del done


def test_events_are_the_recognizers() -> None:
    release = make_release(1).release
    sound = [
        *talk_in_noise(25.0, 10.0, np.random.default_rng(0)),
        *noise_alone(15.0, np.random.default_rng(1)),
    ]
    heard = hear(release, sound, nothing)
    events = events_in(heard, release.manifest.task)
    listener = Recognizer(release)
    live = [event for stretch in sound for event in listener.feed(stretch.samples)]
    assert [(event.label, event.start, event.end) for event in events] == [
        (event.label, event.start, event.end) for event in live
    ]
    assert events
    assert heard.seconds == pytest.approx(40.0)
    assert len(heard.ends) == len(heard.scores) == release.manifest.task.front_end.frames(40 * SAMPLE_RATE)


def perfect(words: list[Word], seconds: float) -> Heard:
    """The scores of a model that is sure of each word from its end on for 0.2 s, and of nothing else."""
    hops = TASK.front_end.frames(round(seconds * SAMPLE_RATE))
    ends = np.arange(hops) * TASK.front_end.hop + TASK.front_end.window
    scores = np.tile(np.array([0.0, 0.0, 1.0], np.float32), (hops, 1))
    for word in words:
        during = (ends / SAMPLE_RATE >= word.end) & (ends / SAMPLE_RATE < word.end + 0.2)
        scores[during] = np.eye(3, dtype=np.float32)[LABELS.index(word.label)]
    return Heard(scores, ends, tuple(words), seconds)


WORDS = [Word(LABELS[number % 2], 2.0 * number + 1, 2.0 * number + 1.4) for number in range(20)]


def test_a_perfect_model_misses_nothing_and_accepts_nothing_at_any_threshold() -> None:
    for point in sweep(TASK, perfect(WORDS, 45.0), {"quiet": perfect([], 100.0)}):
        assert point.false_rejects.value == 0.0
        assert point.accepts == {"quiet": 0}
        assert (point.hits.confused, point.hits.repeated, point.hits.spurious) == (0, 0, 0)
        assert all(0 <= latency < 0.02 for latency in point.hits.latencies)


def test_a_deaf_model_misses_all() -> None:
    deaf = Heard(perfect([], 45.0).scores, perfect([], 45.0).ends, tuple(WORDS), 45.0)
    assert decide(TASK, deaf, {}).false_rejects.value == 1.0


def test_words_where_none_were_said_are_false_accepts() -> None:
    point = decide(TASK, perfect(WORDS, 45.0), {"talk": perfect(WORDS[:7], 1800.0)})
    assert point.accepts == {"talk": 7}
    assert point.accepts_per_hour == pytest.approx(14.0)
    low, high = point.accepts_interval
    assert low < 14.0 < high


def test_a_sweep_begins_strict_and_ends_when_nobody_would_want_more() -> None:
    noise = np.random.default_rng(0)
    heard = perfect([], 600.0)
    sure = noise.uniform(0, 1, len(heard.scores)).astype(np.float32) ** 4
    wild = Heard(np.stack((sure, 0 * sure, 1 - sure), axis=1), heard.ends, (), 600.0)
    points = sweep(TASK, perfect(WORDS, 45.0), {"wild": wild})
    thresholds = [point.threshold for point in points]
    assert thresholds == sorted(thresholds, reverse=True)
    assert all(point.accepts_per_hour <= 300 for point in points[:-1])
    assert points[-1].accepts_per_hour > 300


def test_a_threshold_moves_its_release_along() -> None:
    moved = with_threshold(TASK, 0.9).trigger
    assert moved.threshold == 0.9
    assert moved.release / moved.threshold == pytest.approx(TASK.trigger.release / TASK.trigger.threshold)
    assert moved.refractory_seconds == TASK.trigger.refractory_seconds


def test_words_stay_where_they_are_in_time() -> None:
    """Words are given in stream time, whatever stretch they come in."""
    stretches = [
        Stretch(np.zeros(SAMPLE_RATE, np.float32), (Word("yes", n + 0.2, n + 0.5),)) for n in range(3)
    ]
    heard = hear(make_release(1).release, stretches, nothing)
    assert [word.start for word in heard.words] == [0.2, 1.2, 2.2]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    return make_corpus(folder, kind="words", voices=2, labels=2, takes=2, seed=2)


def test_a_trial_plays_every_word_once_and_all_that_is_none(corpus: Path) -> None:
    clips = Clips.load(corpus)
    release = make_release(1, task=Task(labels=clips.labels, width=16)).release
    told: list[float] = []
    words = clips.filter(lambda clip: clip.label != "background")
    listened = listen_through(release, Sounds(clips, words, 10.0, 0.02, 3), 1.0, told.append)
    assert listened.shipped.hits.words == len(words)
    hours = listened.shipped.hours
    assert hours["talk"] == hours["noise"] == pytest.approx(0.01)
    assert set(hours) == {"talk", "noise", "background", "negatives"}
    assert sum(told) == pytest.approx(1.0, abs=0.15)
    again = listen_through(release, Sounds(clips, words, 10.0, 0.02, 3), 1.0, nothing)
    assert again.points == listened.points


def test_background_alone_is_nothing_to_listen_for(corpus: Path) -> None:
    clips = Clips.load(corpus)
    release = make_release(1, task=Task(labels=clips.labels, width=16)).release
    quiet = clips.filter(lambda clip: clip.label == "background")
    with pytest.raises(TrainingError, match="FA-7062"):
        listen_through(release, Sounds(quiet, Clips(), 10.0, 0.01, 0), 1.0, nothing)


@pytest.fixture(scope="module")
def evening(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven minutes of noise, longer than a clip may be, and one file that is torn."""
    folder = tmp_path_factory.mktemp("evening") / "room"
    folder.mkdir()
    noise = 0.01 * np.random.default_rng(0).standard_normal(11 * 60 * 1000)
    soundfile.write(folder / "long.flac", noise, 1000)
    whole = (folder / "long.flac").read_bytes()
    (folder / "torn.flac").write_bytes(whole[: len(whole) // 8])
    return folder.parent


def test_a_whole_evening_is_heard_and_what_is_torn_is_named(corpus: Path, evening: Path) -> None:
    clips = Clips.load(corpus)
    release = make_release(1, task=Task(labels=clips.labels, width=16)).release
    sounds = Sounds(clips, Clips.load(evening), 10.0, 0.01, 0)
    listened = listen_through(release, sounds, 1.0, nothing)
    ((file, reason),) = listened.left_out
    assert Path(file).name == "torn.flac"
    assert "damaged" in reason
    # What comes before the tear may be heard.
    assert 11 <= listened.shipped.hours["negatives"] * 60 <= 1.05 * 11 * 9 / 8


def test_negatives_that_cannot_be_read_are_no_sound(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "torn.wav").write_bytes(b"RIFF")
    clips = Clips.load(corpus)
    release = make_release(1, task=Task(labels=clips.labels, width=16)).release
    listened = listen_through(release, Sounds(clips, Clips.load(tmp_path), 10.0, 0.01, 0), 1.0, nothing)
    assert set(listened.shipped.rates) == {"talk", "noise", "background"}
    assert [Path(file).name for file, _ in listened.left_out] == ["torn.wav"]


def test_words_among_the_negatives_are_noticed(corpus: Path) -> None:
    clips = Clips.load(corpus)
    task = Task(labels=clips.labels, width=16)
    words = tuple(label for label in clips.labels if label != "background")
    sounds = Sounds(clips, clips, 10.0, 0.01, 0)
    assert listen_through(make_release(1, task=task).release, sounds, 1.0, nothing).own_words == words
