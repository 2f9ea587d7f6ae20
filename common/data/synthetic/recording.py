"""What stands between a sound and its file: distance, room, microphone, hum and hiss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, signal

from common.audio.front_end import SAMPLE_RATE

Sound = NDArray[np.float64]

_RESPONSE_SAMPLES = 2048
_PEAK = 0.98


@dataclass(frozen=True, eq=False)
class Recorder:
    """One device in one place; every clip of a voice or of a site is recorded by the same one.

    Attributes:
        response: impulse response of room and microphone, (2048,), of unit energy.
        level_db: usual RMS of what is recorded, relative to full scale.
        hiss_db, hum_db: RMS of the device's own noises, relative to `level_db`.
        hum: mains hum, 0.1 s that repeat, (1600,), of unit RMS.
    """

    response: Sound
    level_db: float
    hiss_db: float
    hum_db: float
    hum: Sound


def draw_recorder(rng: np.random.Generator) -> Recorder:
    """A device such as people have: levels of different ones lie up to 20 dB apart."""
    return Recorder(
        response=_draw_response(rng),
        level_db=rng.uniform(-40, -20),
        hiss_db=rng.uniform(-45, -25),
        hum_db=rng.uniform(-50, -28),
        hum=_draw_hum(rng),
    )


def record(sound: Sound, recorder: Recorder, loudness_db: float, rng: np.random.Generator) -> Sound:
    """What `recorder` makes of `sound`, (samples,) at any level; within [-1, 1].

    The RMS of the part where there is sound comes to lie `loudness_db` over the recorder's level. A clip that
    would be cut off is turned down instead.
    """
    heard = signal.oaconvolve(sound, recorder.response)[: len(sound)]
    heard *= _gain(recorder.level_db + loudness_db) / active_rms(heard)
    hum = np.resize(np.roll(recorder.hum, rng.integers(len(recorder.hum))), len(sound))
    noise = _gain(recorder.hiss_db) * rng.standard_normal(len(sound)) + _gain(recorder.hum_db) * hum
    clip: Sound = heard + _gain(recorder.level_db) * noise
    clip *= min(1.0, _PEAK / np.abs(clip).max())
    return clip


def mix(sound: Sound, background: Sound, snr_db: float) -> Sound:
    """`sound` with `background` so much under it."""
    return sound + background * (_gain(-snr_db) * active_rms(sound) / active_rms(background))


def active_rms(sound: Sound) -> float:
    """RMS over the 10 ms blocks within 25 dB of the loudest, so that silence around a word does not count.

    What is shorter than 10 ms is one block; `sound` (n,) is not empty.
    """
    block = min(160, len(sound))
    blocks = np.square(sound[: len(sound) // block * block]).reshape(-1, block).mean(axis=1)
    return float(np.sqrt(blocks[blocks >= blocks.max() * 10**-2.5].mean()))


def _draw_response(rng: np.random.Generator) -> Sound:
    """Direct sound and a decaying tail of echoes (Polack's model), through a microphone's response."""
    time = np.arange(_RESPONSE_SAMPLES) / SAMPLE_RATE
    decay_seconds = rng.uniform(0.05, 0.25)
    tail = rng.standard_normal(_RESPONSE_SAMPLES) * 10 ** (-3 * time / decay_seconds)
    tail *= _gain(rng.uniform(-20, -8)) / np.linalg.norm(tail)
    tail[0] += 1.0

    hz = np.fft.rfftfreq(_RESPONSE_SAMPLES, 1 / SAMPLE_RATE)
    octaves = np.log2(np.maximum(hz, 50.0) / 1000)
    colour_db = rng.uniform(-2, 2) * octaves
    colour_db += rng.uniform(-4, 4) * np.exp(-0.5 * np.square((octaves - rng.uniform(-1, 2.5)) / 0.5))
    low_cut_hz = rng.uniform(50, 200)
    magnitude = 10 ** (colour_db / 20) * hz / np.hypot(hz, low_cut_hz)
    response: Sound = fft.irfft(fft.rfft(tail) * magnitude, _RESPONSE_SAMPLES)
    response /= np.linalg.norm(response)
    return response


def _draw_hum(rng: np.random.Generator) -> Sound:
    """0.1 s hold whole cycles of both 50 Hz and 60 Hz."""
    hz = float(rng.choice([50.0, 60.0]))
    cycles = np.arange(SAMPLE_RATE // 10) * hz / SAMPLE_RATE
    hum = np.zeros_like(cycles)
    for k in (1, 2, 3, 5):
        hum += np.sin(2 * np.pi * (k * cycles + rng.random())) / k
    hum /= np.sqrt(np.square(hum).mean())
    return hum


def _gain(decibels: float) -> float:
    return float(10 ** (decibels / 20))
