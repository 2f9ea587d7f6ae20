"""Continuous sound to listen to: words in noise, and hours without any."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.audio.front_end import SAMPLE_RATE
from common.data.synthetic.recording import Sound, active_rms
from common.evaluation.noises import draw_noise, talk

LEVEL_DB = -26.0
"""Active level of clips and of talk relative to full scale: the nominal one of ITU-T P.56 and P.830."""

SCENE_SECONDS = 30
"""How long the noise stays the same, about. No more than that, and one clip, is in memory at a time."""

_SILENCE = 1e-9
"""RMS below which there is nothing in a clip: what rounding leaves where a constant was taken away."""

_QUIET_DB, _LOUD_DB = -55.0, -25.0
"""Levels that noise alone may have."""
_TAIL = 0.025
"""Share of a clip's energy that is left out at each end to find the word in it."""


@dataclass(frozen=True)
class Word:
    """A clip in a stream: what is said in it, and from when to when, in seconds of stream time."""

    label: str
    start: float
    end: float


@dataclass(frozen=True, eq=False)
class Stretch:
    """The next part of a stream: samples (n,) at 16 kHz, and the words in them."""

    samples: NDArray[np.float32]
    words: tuple[Word, ...] = ()


def word_in(clip: Sound) -> tuple[int, int]:
    """First sample of what is said in `clip`, and the one after its last: the middle 95 % of the energy."""
    energy = np.cumsum(np.square(clip))
    start, end = np.searchsorted(energy, energy[-1] * np.array((_TAIL, 1 - _TAIL)))
    return int(start), int(end) + 1


def clips_in_noise(
    clips: Iterable[tuple[Sound, str]],
    snr_db: float,
    gap_seconds: tuple[float, float],
    rng: np.random.Generator,
) -> Iterator[Stretch]:
    """Each of `clips` once, in the order given, in noise that changes with the clip that ends half a minute.

    All clips have the same active level, `snr_db` over that of the noise. A constant in a clip is no sound:
    it is taken away.

    Args:
        clips: samples (n,) and what is said in them.
        gap_seconds: shortest and longest gap between two clips.
    """
    level = 10 ** (LEVEL_DB / 20)
    begin = 0
    for scene in _clips_of_scenes(clips, sum(gap_seconds) / 2):
        gaps = np.rint(rng.uniform(*gap_seconds, len(scene) + 1) * SAMPLE_RATE).astype(int)
        length = int(sum(gaps)) + sum(len(clip) for clip, _ in scene)
        # Whole seconds: a transform of any other length takes long, and what it needs is kept for the next.
        noise = draw_noise(-(-length // SAMPLE_RATE) * SAMPLE_RATE, rng)[:length]
        samples = level * 10 ** (-snr_db / 20) * noise
        words, at = [], int(gaps[0])
        for (recorded, label), gap in zip(scene, gaps[1:], strict=True):
            clip = recorded - recorded.mean()
            loudness = active_rms(clip)
            if loudness > _SILENCE:
                samples[at : at + len(clip)] += clip * (level / loudness)
                start, end = ((begin + at + place) / SAMPLE_RATE for place in word_in(clip))
                words.append(Word(label, start, end))
            at += len(clip) + int(gap)
        begin += len(samples)
        yield Stretch(np.clip(samples, -1, 1).astype(np.float32), tuple(words))


def talk_in_noise(seconds: float, snr_db: float, rng: np.random.Generator) -> Iterator[Stretch]:
    """Somebody who talks, in noise; after half a minute somebody else, somewhere else."""
    for samples in _scenes(seconds):
        said = talk(samples, rng) + draw_noise(samples, rng) * 10 ** (-snr_db / 20)
        heard = said * 10 ** (LEVEL_DB / 20)
        yield Stretch(np.clip(heard, -1, 1).astype(np.float32))


def noise_alone(seconds: float, rng: np.random.Generator) -> Iterator[Stretch]:
    """Noise of one place after another, quiet and loud."""
    for samples in _scenes(seconds):
        heard = draw_noise(samples, rng) * 10 ** (rng.uniform(_QUIET_DB, _LOUD_DB) / 20)
        yield Stretch(np.clip(heard, -1, 1).astype(np.float32))


def _clips_of_scenes(
    clips: Iterable[tuple[Sound, str]], gap_seconds: float
) -> Iterator[list[tuple[Sound, str]]]:
    """The next of `clips`, as many as make a scene with a gap after each."""
    scene: list[tuple[Sound, str]] = []
    left = float(SCENE_SECONDS)
    for clip, label in clips:
        scene.append((clip, label))
        left -= len(clip) / SAMPLE_RATE + gap_seconds
        if left <= 0:
            yield scene
            scene, left = [], float(SCENE_SECONDS)
    if scene:
        yield scene


def _scenes(seconds: float) -> Iterator[int]:
    """Lengths of scenes in samples, `seconds` together: alike, for no texture is made of an instant."""
    samples = round(seconds * SAMPLE_RATE)
    scenes = -(-samples // (SCENE_SECONDS * SAMPLE_RATE))
    yield from (samples * (scene + 1) // scenes - samples * scene // scenes for scene in range(scenes))
