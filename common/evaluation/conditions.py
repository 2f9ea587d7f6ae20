"""The conditions under which a model is tried: one change to the sound of a clip each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from common.data.synthetic.recording import Sound, mix
from common.evaluation.noises import crowd, pink_noise
from common.evaluation.rooms import in_room, narrowband, overdriven

Change = Callable[[Sound, np.random.Generator], Sound]
"""Samples (n,) as recorded, and where to draw what is random; returns (n,)."""

Noise = Callable[[int, np.random.Generator], Sound]

SNRS_DB = (20, 10, 5, 0)
"""Level of the active part of a clip over that of the noise."""


@dataclass(frozen=True)
class Condition:
    """One line of a table of robustness."""

    name: str
    change: Change


def _unchanged(sound: Sound, rng: np.random.Generator) -> Sound:
    del rng
    return sound


def _noisy(sound: Sound, rng: np.random.Generator, *, noise: Noise, snr_db: float) -> Sound:
    """What comes to lie above full scale is cut off here as well. A constant in `sound` is no level."""
    return np.clip(mix(sound - sound.mean(), noise(len(sound), rng), snr_db), -1.0, 1.0)


def _reverberant(sound: Sound, rng: np.random.Generator, *, rt60: float) -> Sound:
    return in_room(sound, rt60, rng)


def _amplified(sound: Sound, rng: np.random.Generator, *, gain_db: float) -> Sound:
    """Full scale stays where it is: what was recorded loudly is cut off."""
    del rng
    return np.clip(sound * 10 ** (gain_db / 20), -1.0, 1.0)


def _overdriven(sound: Sound, rng: np.random.Generator) -> Sound:
    del rng
    return overdriven(sound, 12.0)


def _narrowband(sound: Sound, rng: np.random.Generator) -> Sound:
    del rng
    return narrowband(sound)


CLEAN = Condition("as recorded", _unchanged)

CONDITIONS = (
    CLEAN,
    *(
        Condition(f"{name}, SNR {snr_db} dB", partial(_noisy, noise=noise, snr_db=snr_db))
        for name, noise in (("pink noise", pink_noise), ("babble", crowd))
        for snr_db in SNRS_DB
    ),
    *(Condition(f"room, RT60 {rt60} s", partial(_reverberant, rt60=rt60)) for rt60 in (0.3, 0.8)),
    *(Condition(f"gain {gain:+d} dB", partial(_amplified, gain_db=gain)) for gain in (-12, 12)),
    Condition("clipped, 12 dB over", _overdriven),
    Condition("8 kHz material", _narrowband),
)


def changed(sound: Sound, condition: Condition, seed: int, clip: str) -> Sound:
    """`sound` under `condition`: the same for the same seed and clip, and another draw for any other.

    Args:
        clip: its name, so that it is changed in the same way whatever it is tried with.
    """
    drawn = int.from_bytes(hashlib.sha256(clip.encode()).digest()[:8])
    return condition.change(sound, np.random.default_rng([seed, CONDITIONS.index(condition), drawn]))
