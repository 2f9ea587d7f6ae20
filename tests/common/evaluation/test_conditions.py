"""Noise at the ratio asked for, rooms that decay as they should, and the same again for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import signal

from common.audio.front_end import SAMPLE_RATE
from common.data.synthetic.recording import active_rms, mix
from common.evaluation.conditions import CLEAN, CONDITIONS, SNRS_DB, Condition, changed
from common.evaluation.noises import crowd, draw_noise, pink_noise, talk
from common.evaluation.rooms import impulse_response, in_room, narrowband, overdriven

Sound = NDArray[np.float64]


@pytest.fixture(scope="module")
def word() -> Sound:
    """A second, in the middle of which somebody says something."""
    sound = np.zeros(SAMPLE_RATE)
    sound[4000:11000] = 0.1 * talk(7000, np.random.default_rng(3))
    return sound


def condition(name: str) -> Condition:
    return next(each for each in CONDITIONS if each.name == name)


@pytest.mark.parametrize("noise", ["pink noise", "babble"])
@pytest.mark.parametrize("snr_db", SNRS_DB)
def test_the_ratio_is_that_asked_for(word: Sound, noise: str, snr_db: int) -> None:
    heard = changed(word, condition(f"{noise}, SNR {snr_db} dB"), 0, "a")
    added = heard - word
    # RMS over the word itself and over all of the noise, counted here and not by the code under test.
    said = np.sqrt(np.square(word[4000:11000]).mean())
    around = np.sqrt(np.square(added).mean())
    assert 20 * np.log10(said / around) == pytest.approx(snr_db, abs=1.5)


def test_silence_around_a_word_does_not_make_its_noise_quieter() -> None:
    said = talk(8000, np.random.default_rng(0))
    noise = pink_noise(24000, np.random.default_rng(1))
    tight = mix(said, noise[:8000], 10) - said
    long = np.concatenate((np.zeros(8000), said, np.zeros(8000)))
    loose = mix(long, noise, 10) - long
    assert active_rms(tight) == pytest.approx(active_rms(loose), rel=0.15)


@pytest.mark.parametrize("rt60", [0.3, 0.8])
def test_a_room_decays_by_60_db_in_its_time(rt60: float) -> None:
    """T20 by Schroeder's backward integration (ISO 3382): the slope from -5 to -25 dB, times three."""
    response = impulse_response(rt60, np.random.default_rng(5))
    left = np.cumsum(np.square(response)[::-1])[::-1]
    decay_db = 10 * np.log10(left / left[0])
    chosen = (decay_db < -5) & (decay_db > -25)
    slope, _ = np.polyfit(np.flatnonzero(chosen) / SAMPLE_RATE, decay_db[chosen], 1)
    assert -60 / slope == pytest.approx(rt60, rel=0.05)
    assert np.square(response).sum() == pytest.approx(1)
    direct = np.square(response[0]) / np.square(response[1:]).sum()
    assert 10 * np.log10(direct) == pytest.approx(0, abs=1e-6)


def test_a_room_neither_delays_nor_lengthens(word: Sound) -> None:
    heard = in_room(word, 0.3, np.random.default_rng(0))
    assert len(heard) == len(word)
    assert not np.abs(heard[:4000]).max() > 1e-12
    assert np.abs(heard[4000:4100]).max() > 0
    assert np.abs(heard[11000:11500]).max() > 1e-4, "no echo after the word"


def test_pink_noise_falls_by_3_db_an_octave() -> None:
    hz, power = signal.welch(
        pink_noise(20 * SAMPLE_RATE, np.random.default_rng(0)), SAMPLE_RATE, nperseg=4096
    )
    band = (hz > 100) & (hz < 6000)
    slope, _ = np.polyfit(np.log2(hz[band]), 10 * np.log10(power[band]), 1)
    assert slope == pytest.approx(-3.01, abs=0.2)


def test_a_crowd_hides_who_is_in_it(word: Sound) -> None:
    """The level of one person comes and goes with the words; that of six hardly does."""

    def unevenness(sound: Sound) -> float:
        levels = np.square(sound).reshape(-1, 1600).mean(axis=1)
        return float(levels.std() / levels.mean())

    rng = np.random.default_rng(0)
    assert unevenness(crowd(16 * SAMPLE_RATE, rng)) < 0.7 * unevenness(talk(16 * SAMPLE_RATE, rng))


def test_overdriven_loses_what_is_above_and_nothing_else() -> None:
    sound = np.sin(np.arange(16000) / 7)
    heard = overdriven(sound, 12.0)
    limit = 10 ** (-12 / 20)
    assert np.abs(heard).max() == pytest.approx(limit, rel=1e-3)
    below = np.abs(sound) < limit * 0.999
    assert np.array_equal(heard[below], sound[below])
    assert np.mean(~below) > 0.8


def test_narrowband_keeps_what_is_below_4_khz_and_nothing_above() -> None:
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    for hz, kept in ((1000, 1.0), (3000, 1.0), (5000, 0.0), (7000, 0.0)):
        tone = np.sin(2 * np.pi * hz * time)
        heard = narrowband(tone)
        assert len(heard) == len(tone)
        assert np.sqrt(2 * np.square(heard[2000:-2000]).mean()) == pytest.approx(kept, abs=0.02)


@pytest.mark.parametrize("each", CONDITIONS, ids=lambda each: each.name)
def test_a_condition_depends_on_seed_and_clip_alone(each: Condition, word: Sound) -> None:
    first = changed(word, each, 1, "a")
    assert np.array_equal(first, changed(word, each, 1, "a"))
    assert len(first) == len(word)
    assert np.isfinite(first).all()
    random = any(what in each.name for what in ("SNR", "RT60"))
    assert (not np.array_equal(first, changed(word, each, 1, "b"))) == random
    assert (not np.array_equal(first, changed(word, each, 2, "a"))) == random
    assert np.array_equal(first, word) == (each in {CLEAN})


def test_noise_and_gain_go_no_further_than_full_scale(word: Sound) -> None:
    """As in the file of a device that recorded it."""
    loud = word / np.abs(word).max()
    for each in CONDITIONS:
        if "SNR" in each.name or "gain" in each.name:
            assert np.abs(changed(loud, each, 0, "")).max() <= 1, each.name


def test_a_constant_is_no_level(word: Sound) -> None:
    """The noise beside a word is as loud whether the microphone adds a constant or not."""
    noisy = condition("pink noise, SNR 10 dB")
    plain, lifted = (changed(sound, noisy, 0, "a") for sound in (word, word + 0.2))
    assert active_rms(lifted - lifted.mean()) == pytest.approx(active_rms(plain), rel=0.01)


def test_less_than_a_block_has_a_level() -> None:
    assert active_rms(np.full(7, 0.5)) == pytest.approx(0.5)
    assert active_rms(np.array([-0.25])) == 0.25


def test_silence_stays_finite() -> None:
    for each in CONDITIONS:
        assert np.isfinite(changed(np.zeros(SAMPLE_RATE), each, 0, "")).all(), each.name


def test_places_are_at_an_active_rms_of_one() -> None:
    for seed in range(12):
        assert active_rms(draw_noise(SAMPLE_RATE * 2, np.random.default_rng(seed))) == pytest.approx(1)
