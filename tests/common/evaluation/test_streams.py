"""Streams hold what they say they hold, at the level they say, where they say."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from common.audio.front_end import SAMPLE_RATE
from common.data.synthetic.recording import active_rms
from common.evaluation.streams import LEVEL_DB, clips_in_noise, noise_alone, talk_in_noise, word_in

Sound = NDArray[np.float64]


def clip(number: int, level: float = 1.0) -> Sound:
    """A second with a burst of noise from 0.3 s to 0.7 s."""
    sound = np.zeros(SAMPLE_RATE)
    sound[4800:11200] = level * np.random.default_rng(number).standard_normal(6400)
    return sound


def test_each_clip_comes_once_in_order_and_where_it_is_said_to_be() -> None:
    clips = [(clip(number, 0.01 * (1 + number)), f"w{number}") for number in range(30)]
    stretches = list(clips_in_noise(clips, 60.0, (1.0, 2.0), np.random.default_rng(0)))
    sound = np.concatenate([stretch.samples for stretch in stretches])
    words = [word for stretch in stretches for word in stretch.words]
    assert [word.label for word in words] == [label for _, label in clips]
    assert sound.dtype == np.float32
    for word, (original, _) in zip(words, clips, strict=True):
        start, end = word_in(original - original.mean())
        assert word.end - word.start == pytest.approx((end - start) / SAMPLE_RATE)
        heard = sound[round(word.start * SAMPLE_RATE) : round(word.end * SAMPLE_RATE)]
        said = original[start:end]
        # Noise 60 dB below leaves nothing but the clip, at another level; off by a sample, they would differ.
        assert np.dot(heard, said) / np.linalg.norm(heard) / np.linalg.norm(said) > 0.999
    ends = [0.0, *(word.end for word in words)]
    gaps = np.array([word.start for word in words]) - ends[:-1]
    assert gaps.min() >= 1.0


@pytest.mark.parametrize("snr_db", [0.0, 10.0])
def test_the_ratio_is_that_asked_for(snr_db: float) -> None:
    """The same stream with and without words differs by the words alone."""
    clips = [(clip(number, 10.0 ** -(number % 3)), "word") for number in range(12)]
    silent = [(np.zeros(SAMPLE_RATE), "nothing")] * 12
    with_words = list(clips_in_noise(clips, snr_db, (1.0, 1.5), np.random.default_rng(4)))
    without = list(clips_in_noise(silent, snr_db, (1.0, 1.5), np.random.default_rng(4)))
    assert [stretch.words for stretch in without] == [()]
    noise = without[0].samples.astype(np.float64)
    assert 20 * np.log10(active_rms(noise)) == pytest.approx(LEVEL_DB - snr_db, abs=0.3)
    added = with_words[0].samples - noise
    for word in with_words[0].words:
        said = added[round(word.start * SAMPLE_RATE) : round(word.end * SAMPLE_RATE)]
        ratio_db = 20 * np.log10(np.sqrt(np.square(said).mean()) / active_rms(noise))
        assert ratio_db == pytest.approx(snr_db, abs=0.1)


def test_a_word_is_where_its_energy_is() -> None:
    start, end = word_in(clip(1))
    assert 4800 < start < 4800 + 300
    assert 11200 - 300 < end < 11200


def test_a_constant_is_no_part_of_a_word() -> None:
    plain, lifted = (
        next(iter(clips_in_noise([(sound, "word")], 10.0, (1.0, 2.0), np.random.default_rng(0))))
        for sound in (clip(1, 0.1), clip(1, 0.1) + 0.3)
    )
    assert lifted.words == plain.words
    np.testing.assert_allclose(lifted.samples, plain.samples, atol=1e-4)
    (silence,) = clips_in_noise(
        [(np.full(SAMPLE_RATE, 0.1), "word")], 10.0, (1.0, 2.0), np.random.default_rng(0)
    )
    assert silence.words == ()


@pytest.mark.parametrize("samples", [1, 5, 159, 161])
def test_very_short_clips_are_played(samples: int) -> None:
    clips = [(np.random.default_rng(samples).standard_normal(samples), "word"), (clip(1), "word")]
    (stretch,) = clips_in_noise(clips, 10.0, (0.1, 0.5), np.random.default_rng(0))
    assert np.isfinite(stretch.samples).all()
    assert len(stretch.words) == (1 if samples == 1 else 2)  # one sample is a constant


@pytest.mark.parametrize("seconds", [0.5, 5.0, 40.0])
def test_a_scene_ends_after_half_a_minute_however_long_clips_are(seconds: float) -> None:
    """What is held in memory at a time is a scene, and a clip that goes beyond it."""
    clips = (
        (np.random.default_rng(number).standard_normal(round(seconds * SAMPLE_RATE)), "rain")
        for number in range(20)
    )
    scenes = [
        len(stretch.samples) / SAMPLE_RATE
        for stretch in clips_in_noise(clips, 10.0, (0.1, 0.5), np.random.default_rng(0))
    ]
    assert sum(scenes) > 20 * seconds
    assert max(scenes) < 30 + seconds + 10
    assert all(length > 29 for length in scenes[:-1])


@pytest.mark.parametrize("seconds", [30.001, 90.0005])
def test_no_scene_is_an_instant(seconds: float) -> None:
    for sound in (
        talk_in_noise(seconds, 10.0, np.random.default_rng(0)),
        noise_alone(seconds, np.random.default_rng(0)),
    ):
        lengths = [len(stretch.samples) / SAMPLE_RATE for stretch in sound]
        assert sum(lengths) == pytest.approx(seconds)
        assert 10 < min(lengths) <= max(lengths) <= 30


@pytest.mark.parametrize("seconds", [0.5, 45.0])
def test_sound_without_words_lasts_as_long_as_asked(seconds: float) -> None:
    for sound in (
        talk_in_noise(seconds, 10.0, np.random.default_rng(0)),
        noise_alone(seconds, np.random.default_rng(0)),
    ):
        stretches = list(sound)
        assert sum(len(stretch.samples) for stretch in stretches) == round(seconds * SAMPLE_RATE)
        assert not any(stretch.words for stretch in stretches)
        assert all(np.isfinite(stretch.samples).all() for stretch in stretches)
        assert all(np.abs(stretch.samples).max() <= 1 for stretch in stretches)


def test_the_same_seed_gives_the_same_stream() -> None:
    def once(seed: int) -> Sound:
        clips = [(clip(1), "word")]
        rng = np.random.default_rng(seed)
        return next(iter(clips_in_noise(clips, 10.0, (1.0, 2.0), rng))).samples.astype(np.float64)

    assert np.array_equal(once(1), once(1))
    assert len(once(1)) != len(once(2))
