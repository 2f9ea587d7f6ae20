"""Strings clips into one long recording, for listening to it live."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.audio.front_end import SAMPLE_RATE
from common.data.synthetic.textures import draw_texture

_SCENE_SECONDS = 20
_FADE_SAMPLES = 160


@dataclass(frozen=True)
class Event:
    """Where a clip lies in a stream, in seconds from its start."""

    label: str
    start: float
    end: float


def make_stream(
    clips: Sequence[tuple[NDArray[np.floating], str]],
    seconds: float,
    rng: np.random.Generator,
    *,
    gap_seconds: tuple[float, float] = (0.5, 2.0),
    background_db: float = -50.0,
) -> tuple[NDArray[np.float32], tuple[Event, ...]]:
    """`clips` in random order, over and over, with gaps between them over textures that change every 20 s.

    Args:
        clips: samples (n,) in [-1, 1] at 16 kHz, and their label; of any length, of any origin.
        seconds: length of the stream; a clip that would not end within it is left out.
        gap_seconds: shortest and longest gap.
        background_db: RMS of the background relative to full scale; -inf for none.

    Returns:
        Samples (round(seconds * 16000),) in [-1, 1], and the clips in it in order of time.
    """
    samples = round(seconds * SAMPLE_RATE)
    stream = _background(samples, 10 ** (background_db / 20), rng)
    events: list[Event] = []
    start = _gap(gap_seconds, rng)
    order: list[int] = []
    while clips:
        order = order or rng.permutation(len(clips)).tolist()
        clip, label = clips[order.pop()]
        end = start + len(clip)
        if end > samples:
            break
        stream[start:end] += _faded(clip)
        events.append(Event(label, start / SAMPLE_RATE, end / SAMPLE_RATE))
        start = end + _gap(gap_seconds, rng)
    return np.clip(stream, -1, 1), tuple(events)


def _gap(seconds: tuple[float, float], rng: np.random.Generator) -> int:
    return round(rng.uniform(*seconds) * SAMPLE_RATE)


def _faded(clip: NDArray[np.floating]) -> NDArray[np.float32]:
    """`clip` with 10 ms ramps, so that the noise in it does not begin or end with a click."""
    edge = np.minimum(np.arange(len(clip)), np.arange(len(clip))[::-1])
    return (clip * np.minimum(1.0, edge / _FADE_SAMPLES)).astype(np.float32)


def _background(samples: int, gain: float, rng: np.random.Generator) -> NDArray[np.float32]:
    scene = _SCENE_SECONDS * SAMPLE_RATE
    stream = np.empty(samples, np.float32)
    for start in range(0, samples, scene):
        stream[start : start + scene] = gain * draw_texture(scene, rng)[: samples - start]
    return stream
