"""Voices: source and filter, as in a mouth.

Vocal folds and turbulence make the source, the vocal tract filters it (Fant, "Acoustic theory of speech
production", 1960). The tract moves, so the source is cut into overlapping 10 ms frames, each is multiplied by
the tract's response at that time, and they are added up again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft, ndimage, signal

from common.audio.front_end import SAMPLE_RATE
from common.data.synthetic.words import PHONES, phones

Floats = NDArray[np.float32]
Spectra = NDArray[np.complex64]

_HOP = 80
_WINDOW = 2 * _HOP
_FFT = 560  # seven hops: a frame and the 25 ms in which a formant rings down
_HANN = signal.windows.hann(_WINDOW, sym=False).astype(np.float32)
_HZ = np.fft.rfftfreq(_FFT, 1 / SAMPLE_RATE).astype(np.float32)
_PHONES = tuple(PHONES)


@dataclass(frozen=True, eq=False)
class Voice:
    """A person.

    Attributes:
        pitch_hz: mean fundamental frequency.
        tract: formants relative to an adult male's; the shorter the vocal tract, the larger.
        pace: speed relative to the vocabulary's durations.
        breath: noise mixed into the voice, linear gain.
        jitter: relative variation of the period; `shimmer`, of its strength.
        tilt: pole of the glottal low-pass, 0 (pressed) to 1 (soft).
        accent: this person's formants relative to the vocabulary's, (phones, 3).
        lisp: the same for the frequencies of noises.
    """

    pitch_hz: float
    tract: float
    pace: float
    breath: float
    jitter: float
    shimmer: float
    tilt: float
    accent: NDArray[np.float64]
    lisp: float


def draw_voice(rng: np.random.Generator) -> Voice:
    """A person out of a population of men, women and children."""
    octaves = rng.uniform(-0.4, 1.0)
    return Voice(
        pitch_hz=120 * 2**octaves,
        tract=(1 + 0.14 * octaves) * np.exp(rng.normal(0, 0.03)),
        pace=np.exp(rng.uniform(-0.25, 0.25)),
        breath=rng.uniform(0.005, 0.12),
        jitter=rng.uniform(0.003, 0.02),
        shimmer=rng.uniform(0.02, 0.15),
        tilt=rng.uniform(0.75, 0.96),
        accent=np.exp(rng.normal(0, 0.05, (len(_PHONES), 3))),
        lisp=np.exp(rng.normal(0, 0.1)),
    )


def speak(word: str, voice: Voice, samples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """`word` said once by `voice` somewhere in `samples`, silence around it; (samples,), arbitrary level."""
    tracks = _articulate(word, voice, rng)
    frames = len(tracks.voice)
    folds = _spectra(_vocal_folds(frames, voice, rng))
    noise = _spectra(rng.standard_normal((frames + 1) * _HOP, np.float32))
    breath = tracks.breath + voice.breath * tracks.voice
    said = (folds * tracks.voice[:, None] + noise * breath[:, None]) * _tract(tracks.formants)
    hissing = np.flatnonzero(tracks.hiss)
    off_centre = (_HZ - tracks.hiss_hz[hissing, None]) / tracks.hiss_width[hissing, None]
    said[hissing] += noise[hissing] * tracks.hiss[hissing, None] * np.exp(-0.5 * np.square(off_centre))
    return _placed(_overlap_add(said), samples, rng)


def _placed(said: Floats, samples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """`said` at a random place in silence of `samples`; what does not fit is cut off."""
    clip = np.zeros(samples)
    start = rng.integers(0, max(1, samples - len(said)))
    clip[start : start + len(said)] = said[: samples - start]
    return clip


@dataclass(frozen=True, eq=False)
class _Tracks:
    """How an utterance moves, one value every 5 ms: formants (frames, 5), everything else (frames,)."""

    formants: Floats
    voice: Floats
    breath: Floats
    hiss: Floats
    hiss_hz: Floats
    hiss_width: Floats


def _articulate(word: str, voice: Voice, rng: np.random.Generator) -> _Tracks:
    """Targets of the word's segments in this voice, each take a little different, joined by movement."""
    sounds = [(phone, segment) for phone in phones(word) for segment in PHONES[phone]]
    segments = [segment for _, segment in sounds]
    seconds = np.array([s.seconds for s in segments]) / voice.pace * np.exp(rng.normal(0, 0.12, len(sounds)))
    lengths = np.maximum(2, np.rint(seconds * SAMPLE_RATE / _HOP)).astype(np.intp)

    def held(values: ArrayLike) -> Floats:
        return np.repeat(np.asarray(values, dtype=np.float32), lengths, axis=0)

    accent = voice.accent[[_PHONES.index(phone) for phone, _ in sounds]]
    lower = np.array([s.formants for s in segments]) * accent * voice.tract
    lower *= np.exp(rng.normal(0, 0.03, lower.shape))
    upper = np.full((len(sounds), 2), (3500.0, 4500.0)) * voice.tract
    effort = np.exp(rng.normal(0, 0.15, len(sounds)))
    return _Tracks(
        formants=_smooth(held(np.hstack([lower, upper])), 13),
        voice=_smooth(held([s.voice for s in segments] * effort), 5),
        breath=_smooth(held([s.breath for s in segments] * effort), 3),
        hiss=_smooth(held([s.hiss for s in segments] * effort), 3),
        hiss_hz=held([s.hiss_hz for s in segments]) * np.float32(voice.lisp),
        hiss_width=held([s.hiss_width for s in segments]),
    )


def _smooth(track: Floats, frames: int) -> Floats:
    """Moving Hann mean over `frames` (odd) along the first axis; the ends are held."""
    weights = signal.windows.hann(frames + 2)[1:-1]
    return ndimage.convolve1d(track, weights / weights.sum(), axis=0, mode="nearest")


def _vocal_folds(frames: int, voice: Voice, rng: np.random.Generator) -> Floats:
    """A train of pulses, falling in pitch, softened by the glottal low-pass; of unit RMS."""
    samples = (frames + 1) * _HOP
    pitch_hz = voice.pitch_hz * np.exp(rng.normal(0, 0.05))
    fall = np.linspace(rng.uniform(1.0, 1.25), rng.uniform(0.75, 1.0), samples)
    wander = np.repeat(1 + voice.jitter * rng.standard_normal(frames + 1), _HOP)
    cycles = np.cumsum(pitch_hz * fall * wander / SAMPLE_RATE)
    starts = np.flatnonzero(np.diff(np.floor(cycles)))
    pulses = np.zeros(samples)
    pulses[starts] = 1 + voice.shimmer * rng.standard_normal(len(starts))
    soft: Floats = signal.lfilter([1.0], [1.0, -voice.tilt], pulses - pulses.mean()).astype(np.float32)
    soft /= np.sqrt(np.square(soft).mean())
    return soft


def _tract(formants: Floats) -> Spectra:
    """Response of a cascade of resonators (Klatt 1980, equation 1) with gain 1 at 0 Hz; (frames, bins)."""
    hz = formants.astype(np.float64)  # the product of five resonances needs the digits
    radius = np.exp(-np.pi * (50 + 0.04 * hz) / SAMPLE_RATE)
    b = 2 * radius * np.cos(2 * np.pi * hz / SAMPLE_RATE)
    c = -np.square(radius)
    # the cascade's denominator as one polynomial: its transform is far cheaper than five complex products
    poles = np.zeros((len(hz), 1 + 2 * hz.shape[1]))
    poles[:, 0] = 1
    for i in range(hz.shape[1]):
        shifted = np.pad(poles, ((0, 0), (2, 0)))
        poles -= b[:, i, None] * shifted[:, 1:-1] + c[:, i, None] * shifted[:, :-2]
    response: Spectra = ((1 - b - c).prod(axis=1)[:, None] / fft.rfft(poles, _FFT, axis=1)).astype(
        np.complex64
    )
    return response


def _spectra(source: Floats) -> Spectra:
    """Spectra of the source's 10 ms frames, one every 5 ms; (frames, bins)."""
    frames = np.lib.stride_tricks.sliding_window_view(source, _WINDOW)[::_HOP]
    return fft.rfft(frames * _HANN, _FFT, axis=1)


def _overlap_add(spectra: Spectra) -> Floats:
    hops = _FFT // _HOP
    pieces = fft.irfft(spectra, _FFT, axis=1).reshape(len(spectra), hops, _HOP)
    out = np.zeros((len(spectra) + hops - 1, _HOP), np.float32)
    for hop in range(hops):
        out[hop : hop + len(spectra)] += pieces[:, hop]
    return out.ravel()
