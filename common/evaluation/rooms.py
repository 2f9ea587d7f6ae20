"""What rooms and cheap hardware do to a sound."""

from __future__ import annotations

import numpy as np
from scipy import signal

from common.audio.front_end import SAMPLE_RATE
from common.data.synthetic.recording import Sound


def impulse_response(rt60: float, rng: np.random.Generator) -> Sound:
    """A room's response: direct sound, then Gaussian echoes (Polack) that fall by 60 dB in `rt60` s.

    Echoes together are as strong as the direct sound, as they are at the critical distance.

    Returns:
        (round(rt60 * 16000) + 1,), of unit energy.
    """
    time = np.arange(round(rt60 * SAMPLE_RATE)) / SAMPLE_RATE
    echoes = rng.standard_normal(len(time)) * 10 ** (-3 * time / rt60)
    response: Sound = np.concatenate(([1.0], echoes / np.linalg.norm(echoes)))
    return response / np.linalg.norm(response)


def in_room(sound: Sound, rt60: float, rng: np.random.Generator) -> Sound:
    """`sound` in a room of its own, cut off where the sound itself ends."""
    heard: Sound = signal.oaconvolve(sound, impulse_response(rt60, rng))[: len(sound)]
    return heard


def overdriven(sound: Sound, over_db: float) -> Sound:
    """`sound` through an input that its loudest sample exceeds by `over_db`."""
    limit = np.abs(sound).max(initial=0.0) * 10 ** (-over_db / 20)
    return np.clip(sound, -limit, limit)


def narrowband(sound: Sound) -> Sound:
    """`sound` as it comes out of a telephone: sampled at 8 kHz, and brought back to 16 kHz."""
    low = signal.resample_poly(sound, 1, 2)
    heard: Sound = signal.resample_poly(low, 2, 1)[: len(sound)]
    return heard
