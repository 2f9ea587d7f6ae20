"""Sounds that are not what a model listens for: noise, a crowd, somebody who talks about something else."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import fft

from common.audio.front_end import SAMPLE_RATE
from common.data.synthetic.recording import Sound, active_rms
from common.data.synthetic.textures import TEXTURES, draw_texture
from common.data.synthetic.voices import draw_voice, speak
from common.data.synthetic.words import BABBLE

CROWD = 6
"""Voices of a crowd: enough that no word can be made out."""

_PEOPLE, _TALK_SECONDS = 16, 20
"""Who crowds are made of, and how long each talks before it repeats: speech takes long to make."""

_WORD_SAMPLES = SAMPLE_RATE
_PAUSE_SECONDS = (0.05, 0.6)


def pink_noise(samples: int, rng: np.random.Generator) -> Sound:
    """Gaussian noise whose power falls by 3 dB an octave from 20 Hz on; (samples,), of unit RMS."""
    hz = fft.rfftfreq(samples, 1 / SAMPLE_RATE)
    white = fft.rfft(rng.standard_normal(samples))
    white[hz < 20.0] = 0.0
    noise: Sound = fft.irfft(white / np.sqrt(np.maximum(hz, 20.0)), samples)
    noise /= np.sqrt(np.square(noise).mean())
    return noise


def talk(samples: int, rng: np.random.Generator) -> Sound:
    """One synthetic person who says one pseudo-word after another; (samples,), at an active RMS of 1.

    The words are those of the "babble" corpus, none of which is a word of the "words" corpus.
    """
    voice = draw_voice(rng)
    said = np.zeros(samples)
    at = 0
    while at < samples:
        word = np.trim_zeros(speak(BABBLE[rng.integers(len(BABBLE))], voice, _WORD_SAMPLES, rng))
        end = min(samples, at + len(word))
        said[at:end] = word[: end - at]
        at = end + round(rng.uniform(*_PAUSE_SECONDS) * SAMPLE_RATE)
    return said / active_rms(said)


def crowd(samples: int, rng: np.random.Generator) -> Sound:
    """`CROWD` people who talk at the same time; (samples,), at an active RMS of 1.

    They are drawn out of 16, who say the same things each time; who is there, and where in what they say each
    begins, is drawn afresh.
    """
    heard = np.zeros(samples)
    for person in rng.choice(_PEOPLE, CROWD, replace=False):
        said = _people()[person]
        heard += np.resize(np.roll(said, rng.integers(len(said))), samples)
    return heard / active_rms(heard)


@lru_cache(maxsize=1)
def _people() -> tuple[Sound, ...]:
    return tuple(
        talk(_TALK_SECONDS * SAMPLE_RATE, np.random.default_rng(person)) for person in range(_PEOPLE)
    )


def draw_noise(samples: int, rng: np.random.Generator) -> Sound:
    """Some place to be in: a texture, a crowd or pink noise, each as likely; at an active RMS of 1."""
    kind = rng.integers(len(TEXTURES) + 2)
    if kind == 0:
        return pink_noise(samples, rng)
    sound = crowd(samples, rng) if kind == 1 else draw_texture(samples, rng)
    return sound / active_rms(sound)
