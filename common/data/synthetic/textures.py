"""Textures: sounds of places and things, known by their statistics rather than by their course.

After Farnell, "Designing Sound" (2010): noise, resonances and random events, shaped by a few numbers. Each
maker draws from two generators: `site` for the numbers that stay the same at one site, `take` for the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np
from scipy import fft, signal

from common.audio.front_end import SAMPLE_RATE
from common.data.synthetic.recording import Sound

Texture = Callable[[int, np.random.Generator, np.random.Generator], Sound]


def rain(samples: int, site: np.random.Generator, take: np.random.Generator) -> Sound:
    """A bed of hiss, and drops close by."""
    centre, drops_hz, rate = site.uniform(2000, 5000), site.uniform(2000, 5000), site.uniform(40, 300)
    bed = _noise(samples, centre, 2.0, take) * _drift(samples, 2.0, 0.3, take)
    drops = _struck(_arrivals(samples, rate, take), drops_hz, 0.002)
    return _unit(bed) + site.uniform(0.2, 1.0) * _unit(drops)


def wind(samples: int, site: np.random.Generator, take: np.random.Generator) -> Sound:
    """Rumble that swells, and a whistle that swells with it."""
    gusts = _drift(samples, site.uniform(0.5, 3.0), 0.8, take)
    rumble = _unit(_noise(samples, site.uniform(80, 300), 1.5, take))
    whistle = _unit(_noise(samples, site.uniform(400, 1500), 0.3, take))
    return rumble * gusts + site.uniform(0.1, 0.7) * whistle * np.square(gusts)


def engine(samples: int, site: np.random.Generator, take: np.random.Generator) -> Sound:
    """Firing pulses through an exhaust, and the noise of moving parts."""
    speed = site.uniform(18, 70) * np.exp(take.normal(0, 0.1)) * _drift(samples, 1.0, 0.05, take)
    cycles = np.cumsum(speed / SAMPLE_RATE)
    firing = np.diff(np.floor(cycles), prepend=0.0) * (1 + 0.3 * take.standard_normal(samples))
    exhaust = _struck(firing, site.uniform(80, 400), 0.01) + _struck(firing, site.uniform(400, 1500), 0.004)
    parts = _noise(samples, site.uniform(500, 3000), 1.5, take) * (1 + np.cos(2 * np.pi * cycles))
    return _unit(exhaust) + site.uniform(0.1, 0.8) * _unit(parts)


def fire(samples: int, site: np.random.Generator, take: np.random.Generator) -> Sound:
    """Crackles of very unequal strength over a low roar."""
    cracks = _arrivals(samples, site.uniform(8, 60), take)
    cracks *= take.pareto(2.0, samples)
    sharp = _struck(cracks, site.uniform(1500, 5000), site.uniform(0.0005, 0.002))
    roar = _noise(samples, site.uniform(150, 600), 1.5, take) * _drift(samples, 4.0, 0.4, take)
    return _unit(sharp) + site.uniform(0.15, 0.8) * _unit(roar)


def birds(samples: int, site: np.random.Generator, take: np.random.Generator) -> Sound:
    """Chirps that sweep, in one species' pitch and rhythm."""
    hz, sweep = site.uniform(2000, 5500), site.uniform(-0.5, 0.5)
    seconds, rate = site.uniform(0.04, 0.2), site.uniform(2, 7)
    starts = np.flatnonzero(_arrivals(samples, rate, take, regular=site.uniform(0, 0.8)))
    out = np.zeros(samples)
    for start in starts:
        length = round(seconds * take.uniform(0.7, 1.3) * SAMPLE_RATE)
        course = np.linspace(-0.5, 0.5, length)
        pitch = hz * take.uniform(0.9, 1.1) * 2 ** (sweep * course)
        chirp = np.sin(2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE) * np.cos(np.pi * course)
        out[start : start + length] += chirp[: samples - start]
    return _unit(out) + site.uniform(0.05, 0.3) * _unit(_noise(samples, 3000, 2.0, take))


def knocks(samples: int, site: np.random.Generator, take: np.random.Generator) -> Sound:
    """Steps or knocks: something heavy that rings dully, at an even pace."""
    hits = _arrivals(samples, site.uniform(2.0, 5.0), take, regular=0.9)
    body = _struck(hits, site.uniform(80, 400), site.uniform(0.01, 0.04))
    clack = _struck(hits, site.uniform(800, 3000), site.uniform(0.002, 0.006))
    floor = _unit(_noise(samples, site.uniform(200, 1000), 2.0, take))
    return _unit(body) + site.uniform(0.2, 0.8) * _unit(clack) + site.uniform(0.02, 0.15) * floor


def alarm(samples: int, site: np.random.Generator, take: np.random.Generator) -> Sound:
    """Beeps of a fixed pitch and beat, some of two tones."""
    hz, beat = site.uniform(700, 3500), site.uniform(2, 8)
    beats = beat * np.arange(samples) / SAMPLE_RATE + take.random()
    pitch = hz * np.where(np.floor(beats) % 2, 1.0, site.choice([1.0, 1.0, 1.25, 1.5]))
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    tone = np.sin(phase) + site.uniform(0, 0.5) * np.sin(2 * phase) + site.uniform(0, 0.3) * np.sin(3 * phase)
    on = _rounded(((beats % 1) < site.uniform(0.4, 0.8)).astype(np.float64))
    return tone * on + site.uniform(0.02, 0.2) * _unit(_noise(samples, 1500, 2.0, take))


def water(samples: int, site: np.random.Generator, take: np.random.Generator) -> Sound:
    """Bubbles: short rings at many pitches (Minnaert), over a splash."""
    rate, seconds = site.uniform(10, 40), site.uniform(0.006, 0.02)
    pitches = site.uniform(400, 1000) * 2 ** site.uniform(0, 2, 8)
    bubbles = sum(
        (_struck(_arrivals(samples, rate / 8, take), hz, seconds) for hz in pitches), np.zeros(samples)
    )
    splash = _noise(samples, site.uniform(1000, 4000), 1.5, take) * _drift(samples, 5.0, 0.4, take)
    return _unit(bubbles) + site.uniform(0.2, 1.0) * _unit(splash)


TEXTURES: Mapping[str, Texture] = {
    "rain": rain,
    "wind": wind,
    "engine": engine,
    "fire": fire,
    "birds": birds,
    "knocks": knocks,
    "alarm": alarm,
    "water": water,
}


def draw_texture(samples: int, rng: np.random.Generator) -> Sound:
    """Some texture at some site; (samples,), of unit RMS."""
    maker = list(TEXTURES.values())[rng.integers(len(TEXTURES))]
    return _unit(maker(samples, rng, rng))


def _noise(samples: int, centre_hz: float, octaves: float, rng: np.random.Generator) -> Sound:
    """Pink noise through a band around `centre_hz`: a Gaussian over pitch, `octaves` its deviation."""
    pitch = _pitch_axis(samples)
    distance = (pitch - np.log2(centre_hz)) / octaves
    shape = np.exp2(-(np.square(distance) + pitch) / 2)
    # the white spectrum is drawn directly: one transform less
    white = rng.standard_normal((len(pitch), 2)).view(np.complex128)[:, 0]
    noise: Sound = fft.irfft(white * shape, samples)
    return noise


@lru_cache(maxsize=4)
def _pitch_axis(samples: int) -> Sound:
    """Frequencies of the bins of a transform of `samples`, in octaves over 1 Hz."""
    octaves: Sound = np.log2(np.maximum(np.fft.rfftfreq(samples, 1 / SAMPLE_RATE), 10.0))
    return octaves


def _drift(samples: int, hz: float, depth: float, rng: np.random.Generator) -> Sound:
    """A positive gain around 1 that takes a new random course about `hz` times a second."""
    knots = max(4, round(samples / SAMPLE_RATE * hz) + 3)
    course: Sound = np.interp(
        np.linspace(0, knots - 1, samples), np.arange(knots), rng.standard_normal(knots)
    )
    return np.exp(depth * course)


def _arrivals(samples: int, rate: float, rng: np.random.Generator, regular: float = 0.0) -> Sound:
    """Impulses at `rate` a second, from random (0, a Poisson process) to regular (1); at least one."""
    expected = max(1.0, rate * samples / SAMPLE_RATE)
    gaps = regular + (1 - regular) * rng.exponential(size=int(expected * 2) + 8)
    times = ((np.cumsum(gaps) - gaps[0] + rng.uniform(0, min(1.0, expected))) * SAMPLE_RATE / rate).astype(
        np.int64
    )
    out = np.zeros(samples)
    out[times[times < samples]] = 1.0
    return out * rng.uniform(0.4, 1.0, samples)


def _struck(impulses: Sound, hz: float, seconds: float) -> Sound:
    """`impulses` ringing at `hz`, each dying away by a factor e in `seconds`."""
    radius = np.exp(-1 / (seconds * SAMPLE_RATE))
    angle = 2 * np.pi * hz / SAMPLE_RATE
    return signal.lfilter([np.sin(angle)], [1.0, -2 * radius * np.cos(angle), radius**2], impulses)


def _rounded(gate: Sound) -> Sound:
    """`gate` with its edges rounded over 5 ms, as a click is not part of a beep."""
    return signal.lfilter(np.full(80, 1 / 80), [1.0], gate)


def _unit(sound: Sound) -> Sound:
    """`sound` at an RMS of 1; silence stays silence."""
    return sound / max(float(np.sqrt(np.square(sound).mean())), 1e-12)
