"""The synthetic corpus: the same from the same seed, sound physics, and neither trivial nor hopeless."""

from __future__ import annotations

import csv
import dataclasses
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import fft, signal
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from common.audio.front_end import SAMPLE_RATE
from common.data.clips import Clips
from common.data.synthetic.corpus import BACKGROUND, Kind, make_corpus
from common.data.synthetic.recording import draw_recorder, mix, record
from common.data.synthetic.streams import make_stream
from common.data.synthetic.textures import TEXTURES, draw_texture
from common.data.synthetic.voices import Voice, draw_voice, speak
from common.data.synthetic.words import PHONES, WORDS, phones
from common.errors import DataError

SPEAKERS, UNSEEN = 22, 6


class Corpus(NamedTuple):
    folder: Path
    waveforms: NDArray[np.float32]
    labels: NDArray[np.str_]
    speakers: NDArray[np.str_]


def _read(manifest: Path) -> Corpus:
    with manifest.open(newline="") as file:
        rows = list(csv.DictReader(file))
    folder = manifest.parent
    waveforms = np.stack([soundfile.read(folder / row["path"], dtype="float32")[0] for row in rows])
    return Corpus(
        folder, waveforms, *(np.array([row[name] for row in rows]) for name in ("label", "speaker"))
    )


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("words")
    return _read(make_corpus(folder, kind="words", voices=SPEAKERS, labels=10, takes=8, seed=1))


@pytest.fixture(scope="module")
def textures(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("textures")
    return _read(make_corpus(folder, kind="textures", voices=SPEAKERS, labels=8, takes=8, seed=1))


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- the files ---


@pytest.mark.parametrize("kind", ["words", "textures"])
def test_a_seed_decides_every_byte(tmp_path: Path, kind: Kind) -> None:
    for name, seed in (("first", 5), ("again", 5), ("other", 6)):
        make_corpus(tmp_path / name, kind=kind, voices=2, labels=3, takes=2, seed=seed)
    first, again, other = (_files(tmp_path / name) for name in ("first", "again", "other"))
    assert first == again
    assert first.keys() == other.keys()
    clips = [name for name in first if name != "manifest.csv"]
    assert len({first[name] for name in clips} | {other[name] for name in clips}) == 2 * len(clips)


@pytest.mark.parametrize("kind", ["words", "textures"])
def test_a_larger_corpus_contains_the_smaller_one(tmp_path: Path, kind: Kind) -> None:
    make_corpus(tmp_path / "small", kind=kind, voices=1, labels=2, takes=1, seed=5)
    make_corpus(tmp_path / "large", kind=kind, voices=2, labels=4, takes=2, seed=5)
    small, large = _files(tmp_path / "small"), _files(tmp_path / "large")
    small.pop("manifest.csv")
    assert len(small) == (3 if kind == "words" else 2)
    assert small.items() <= large.items()


def test_the_manifest_names_every_file(words: Corpus) -> None:
    clips = Clips.from_manifest(words.folder / "manifest.csv")
    assert {clip.path.resolve() for clip in clips} == {
        path.resolve() for path in words.folder.rglob("*.flac")
    }
    assert clips.labels == tuple(sorted((*WORDS[:10], BACKGROUND)))
    assert len(clips.speakers) == SPEAKERS
    assert all(clip.path.parent.name == clip.label for clip in clips)
    assert all(clip.speaker and clip.path.name.startswith(clip.speaker) for clip in clips)


def test_clips_are_one_second_of_16_bit_mono(words: Corpus, textures: Corpus) -> None:
    for corpus in (words, textures):
        info = soundfile.info(next(corpus.folder.rglob("*.flac")))
        assert (info.samplerate, info.channels, info.format, info.subtype) == (16_000, 1, "FLAC", "PCM_16")
        assert corpus.waveforms.shape == (len(corpus.labels), 16_000)


def test_no_clip_is_cut_off_or_silent(words: Corpus, textures: Corpus) -> None:
    for corpus in (words, textures):
        peaks = np.abs(corpus.waveforms).max(axis=1)
        assert peaks.max() < 0.99
        assert peaks.min() > 1e-3


def test_levels_of_voices_lie_about_20_db_apart(words: Corpus) -> None:
    spoken = words.labels != BACKGROUND
    levels = [
        10 * np.log10(np.square(words.waveforms[spoken & (words.speakers == speaker)]).mean())
        for speaker in np.unique(words.speakers)
    ]
    assert 15 < max(levels) - min(levels) < 25


def test_progress_counts_up_to_the_number_of_clips(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    make_corpus(
        tmp_path,
        kind="words",
        voices=2,
        labels=2,
        takes=1,
        seed=0,
        progress=lambda *counts: seen.append(counts),
    )
    assert seen == [(i, 6) for i in range(1, 7)]


@pytest.mark.parametrize(
    ("kind", "voices", "labels", "takes"),
    [
        ("words", 1, 21, 1),
        ("textures", 1, 9, 1),
        ("words", 0, 1, 1),
        ("words", 1, 0, 1),
        ("words", 1, 1, 100),
    ],
)
def test_numbers_out_of_range_are_refused(
    tmp_path: Path, kind: Kind, voices: int, labels: int, takes: int
) -> None:
    with pytest.raises(DataError) as error:
        make_corpus(tmp_path / "corpus", kind=kind, voices=voices, labels=labels, takes=takes, seed=0)
    assert error.value.code == "FA-2040"
    assert not (tmp_path / "corpus").exists()


# --- how hard it is ---


def _mfcc_statistics(waveforms: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean and deviation over time of 20 MFCCs and of their slopes; (clips, 80)."""
    hz = np.fft.rfftfreq(400, 1 / SAMPLE_RATE)
    mel = 2595 * np.log10(1 + hz / 700)
    edges = np.linspace(0, mel[-1], 42)
    triangles = np.clip(1 - np.abs(mel[:, None] - edges[1:-1]) / (edges[1] - edges[0]), 0, None)

    def statistics(waveform: NDArray[np.float32]) -> NDArray[np.float64]:
        frames = np.lib.stride_tricks.sliding_window_view(waveform, 400)[::160] * np.hanning(400)
        power = np.square(np.abs(fft.rfft(frames, axis=1))) @ triangles
        mfcc = fft.dct(np.log(power + 1e-10), axis=1, norm="ortho")[:, :20]
        slope = signal.savgol_filter(mfcc, 9, 1, deriv=1, axis=0)
        return np.concatenate([f(axis=0) for x in (mfcc, slope) for f in (x.mean, x.std)])

    return np.stack([statistics(waveform) for waveform in waveforms])


@pytest.mark.parametrize("kind", ["words", "textures"])
def test_a_classic_classifier_does_well_on_unseen_voices_but_not_perfectly(
    kind: Kind, request: pytest.FixtureRequest
) -> None:
    corpus: Corpus = request.getfixturevalue(kind)
    features = _mfcc_statistics(corpus.waveforms)
    seen = corpus.speakers < np.unique(corpus.speakers)[-UNSEEN]
    svm = make_pipeline(StandardScaler(), SVC(C=10.0)).fit(features[seen], corpus.labels[seen])
    accuracy = svm.score(features[~seen], corpus.labels[~seen])
    assert 0.85 <= accuracy <= 0.95


# --- voices ---


def _steady_voice(pitch_hz: float, tract: float) -> Voice:
    accent = np.ones((len(PHONES), 3))
    return dataclasses.replace(
        draw_voice(np.random.default_rng(0)),
        **{
            "pitch_hz": pitch_hz,
            "tract": tract,
            "breath": 0.01,
            "jitter": 0.001,
            "accent": accent,
            "lisp": 1.0,
        },
    )


def _centre_hz(word: str, tract: float) -> float:
    """Centroid of the mean spectrum of eight takes."""
    voice = _steady_voice(100.0, tract)
    said = [speak(word, voice, 16_000, np.random.default_rng(take)) for take in range(8)]
    hz, powers = signal.welch(np.stack(said), SAMPLE_RATE, nperseg=1024)
    return float((hz * powers).sum() / powers.sum())


def test_every_word_is_made_of_known_sounds() -> None:
    assert len(set(WORDS)) == 20
    assert {phone for word in WORDS for phone in phones(word)} <= PHONES.keys()


@pytest.mark.parametrize("pitch_hz", [100.0, 150.0, 220.0])
def test_a_voice_has_its_pitch(pitch_hz: float) -> None:
    """The autocorrelation of a voiced word peaks at the period, within the take's own 5 % and intonation."""
    measured = []
    for take in range(8):
        said = speak("lulu", _steady_voice(pitch_hz, 1.0), 16_000, np.random.default_rng(take))
        likeness = signal.correlate(said, said)[len(said) - 1 :]
        shortest = int(SAMPLE_RATE / (1.4 * pitch_hz))
        lag = shortest + np.argmax(likeness[shortest : int(SAMPLE_RATE / (0.6 * pitch_hz))])
        measured.append(SAMPLE_RATE / lag)
    assert np.median(measured) == pytest.approx(pitch_hz, rel=0.15)


def test_a_shorter_vocal_tract_raises_the_formants() -> None:
    assert _centre_hz("a", 1.25) > 1.1 * _centre_hz("a", 1.0)


@pytest.mark.parametrize(("brighter", "darker"), [("s", "sh"), ("sh", "k"), ("t", "p"), ("a", "u")])
def test_sounds_are_heard_where_the_mouth_makes_them(brighter: str, darker: str) -> None:
    assert _centre_hz(brighter, 1.0) > 1.2 * _centre_hz(darker, 1.0)


@pytest.mark.parametrize("word", WORDS)
def test_a_word_lies_whole_within_its_clip(word: str) -> None:
    for number in range(10):
        rng = np.random.default_rng(number)
        said = speak(word, draw_voice(rng), 16_000, rng)
        assert said.shape == (16_000,)
        assert np.isfinite(said).all()
        assert np.abs(said[-1]) < 0.01 * np.abs(said).max()


def test_takes_of_one_voice_differ() -> None:
    voice = draw_voice(np.random.default_rng(0))
    first, second = (speak("bado", voice, 16_000, np.random.default_rng(take)) for take in (1, 2))
    likeness = signal.correlate(first, second) / np.sqrt(np.square(first).sum() * np.square(second).sum())
    assert np.abs(likeness).max() < 0.9


# --- textures and devices ---


@given(
    name=st.sampled_from(sorted(TEXTURES)), samples=st.integers(1_600, 48_000), seed=st.integers(0, 2**32 - 1)
)
def test_a_texture_can_be_of_any_length(name: str, samples: int, seed: int) -> None:
    sound = TEXTURES[name](samples, np.random.default_rng(seed), np.random.default_rng(seed + 1))
    assert sound.shape == (samples,)
    assert np.isfinite(sound).all()
    assert np.square(sound).mean() > 0


@given(snr_db=st.floats(-10, 40), seed=st.integers(0, 2**32 - 1))
def test_background_lies_as_far_under_a_sound_as_asked(snr_db: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    sound, background = 0.1 * rng.standard_normal(16_000), 3.0 * rng.standard_normal(16_000)
    added = mix(sound, background, snr_db) - sound
    measured = 10 * np.log10(np.square(sound).mean() / np.square(added).mean())
    assert measured == pytest.approx(snr_db, abs=0.2)


def test_silence_around_a_sound_does_not_count_in_its_level() -> None:
    noise = np.random.default_rng(0).standard_normal(16_000)
    short = np.where(np.arange(16_000) < 3_200, noise, 0.0)
    background = np.random.default_rng(1).standard_normal(16_000)
    around_short, around_long = mix(short, background, 20) - short, mix(noise, background, 20) - noise
    assert np.square(around_short).mean() == pytest.approx(np.square(around_long).mean(), rel=0.1)


@given(seed=st.integers(0, 2**32 - 1), loudness_db=st.floats(-30, 60))
def test_a_recording_never_exceeds_full_scale(seed: int, loudness_db: float) -> None:
    rng = np.random.default_rng(seed)
    clip = record(draw_texture(16_000, rng), draw_recorder(rng), loudness_db, rng)
    assert clip.shape == (16_000,)
    assert np.abs(clip).max() <= 0.98 + 1e-9


# --- streams ---


@given(
    lengths=st.lists(st.integers(400, 20_000), min_size=1, max_size=5),
    seconds=st.floats(0.1, 12),
    seed=st.integers(0, 2**32 - 1),
)
def test_events_lie_where_the_energy_is(lengths: list[int], seconds: float, seed: int) -> None:
    """Without a background a stream is silent exactly outside its events."""
    clips = [(np.full(length, 0.1 * (i + 1)), str(i)) for i, length in enumerate(lengths)]
    stream, events = make_stream(clips, seconds, np.random.default_rng(seed), background_db=-np.inf)
    assert stream.shape == (round(seconds * SAMPLE_RATE),)
    heard = np.zeros(len(stream), bool)
    for event in events:
        start, end = round(event.start * SAMPLE_RATE), round(event.end * SAMPLE_RATE)
        assert 0 <= start < end <= len(stream)
        assert not heard[start:end].any()
        heard[start:end] = True
        assert end - start == lengths[int(event.label)]
        assert stream[(start + end) // 2] == pytest.approx(0.1 * (int(event.label) + 1), rel=1e-5)
    assert not stream[~heard].any()


def test_spoken_words_stand_out_of_the_stream_where_their_events_say(words: Corpus) -> None:
    loud = np.flatnonzero(words.labels != BACKGROUND)[::40]
    clips = [(words.waveforms[i], str(words.labels[i])) for i in loud]
    stream, events = make_stream(clips, 60, np.random.default_rng(0))
    assert len(events) > 20
    inside = np.zeros(len(stream), bool)
    for event in events:
        inside[round(event.start * SAMPLE_RATE) : round(event.end * SAMPLE_RATE)] = True
    assert np.square(stream[inside]).mean() > 10 * np.square(stream[~inside]).mean()
    assert 10 * np.log10(np.square(stream[~inside]).mean()) == pytest.approx(-50, abs=3)


def test_every_clip_is_heard_before_one_is_heard_again() -> None:
    clips = [(np.ones(1_600), label) for label in "abcde"]
    _, events = make_stream(clips, 30, np.random.default_rng(0), gap_seconds=(0.1, 0.2))
    heard = [event.label for event in events]
    assert len(heard) > 50
    assert all(set(heard[i : i + 5]) == set("abcde") for i in range(0, len(heard) - 4, 5))


def test_gaps_are_as_long_as_asked() -> None:
    _, events = make_stream([(np.ones(800), "a")], 30, np.random.default_rng(0), gap_seconds=(0.3, 0.7))
    gaps = [after.start - before.end for before, after in pairwise(events)]
    assert 0.3 <= min(gaps) < 0.4
    assert 0.6 < max(gaps) <= 0.7


def test_a_stream_without_clips_is_background_alone() -> None:
    stream, events = make_stream([], 25, np.random.default_rng(0), background_db=-40)
    assert events == ()
    assert 10 * np.log10(np.square(stream).mean()) == pytest.approx(-40, abs=2)
