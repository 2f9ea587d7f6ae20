"""How loud a stream of sound is to human ears: A-weighted power, from which sound levels are made.

The A curve is that of IEC 61672-1:2013, Annex E, laid on the bins of a Fourier transform. The customary
recursive filters would be 5.7 dB low at 6.3 kHz: at 16 kHz the bilinear transform bends their upper end.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from common.audio.front_end import SAMPLE_RATE
from common.audio.stream import believable
from fl_client.listen.ring import Rows

Powers = NDArray[np.float64]

TICK = SAMPLE_RATE // 100
"""Samples over which power is averaged: 10 ms."""

STEP = 6 * TICK
"""Samples from one Fourier transform to the next; it spans two steps, 120 ms, and bins are 8.3 Hz apart."""

_POLES_HZ = (20.598997, 107.65265, 737.86223, 12194.217)


def a_weighting(hertz: NDArray[np.floating]) -> Powers:
    """The A curve: gain of amplitude at each frequency, 1 at 1 kHz (IEC 61672-1:2013, formula E.6)."""
    gain: Powers = _response(hertz) / _response(np.array(1000.0))
    return gain


def _response(hertz: NDArray[np.floating]) -> Powers:
    low, lower, upper, high = (pole**2 for pole in _POLES_HZ)
    square = np.asarray(hertz, np.float64) ** 2
    above = np.sqrt((square + lower) * (square + upper))
    response: Powers = high * square**2 / ((square + low) * above * (square + high))
    return response


class Loudness:
    """A-weighted power of a stream, a value for each 10 ms, 60 to 120 ms after they were heard.

    A full-scale sine at 1 kHz has power 1 (AES17), so 10 log10 of it is a level in dBFS(A). A stream begins
    as if it had been heard before: its first 60 ms are turned about their first sample, for a beginning out
    of silence would be a click. What comes out does not depend on how the samples are cut into blocks.
    """

    def __init__(self) -> None:
        # Applied before and after the transform, its squares add up to 1 over two steps: sound that is not
        # weighted comes out as it went in.
        self._window = np.sin(np.pi * (np.arange(2 * STEP) + 0.5) / (2 * STEP))
        self._gains = a_weighting(np.fft.rfftfreq(2 * STEP, 1.0 / SAMPLE_RATE))
        self._pending = np.empty(0, np.float32)
        self._overlap = np.zeros(STEP)
        self._begun = False

    def feed(self, samples: Rows) -> Powers:
        """Powers (t,) of the ticks that `samples` (n,) at 16 kHz complete; t is a multiple of 6."""
        pending = np.concatenate((self._pending, believable(samples)), dtype=np.float32)
        steps = max(0, len(pending) // STEP - 1)
        if steps and not self._begun:
            self._begun = True
            before = 2.0 * pending[0] - pending[STEP:0:-1]
            self._overlap = self._filter(np.concatenate((before, pending[:STEP])))[STEP:]
        powers = [self._weigh(pending[at * STEP : (at + 2) * STEP]) for at in range(steps)]
        self._pending = pending[steps * STEP :]
        return np.concatenate(powers) if powers else np.empty(0)

    def _weigh(self, frame: Rows) -> Powers:
        weighted = self._filter(frame)
        sound, self._overlap = self._overlap + weighted[:STEP], weighted[STEP:]
        powers: Powers = 2.0 * np.square(sound).reshape(-1, TICK).mean(axis=1)
        return powers

    def _filter(self, frame: Rows) -> Powers:
        """`frame` of two steps under the curve, and under the window on both sides."""
        spectrum = np.fft.rfft(frame * self._window) * self._gains
        weighted: Powers = np.fft.irfft(spectrum, 2 * STEP) * self._window
        return weighted


class FastWeighting:
    """The level a sound level meter shows with time weighting F: powers under an exponential memory of 125 ms
    (IEC 61672-1:2013, 5.8). It begins at the first of them, as a meter that was switched on before.
    """

    def __init__(self) -> None:
        self._keep = math.exp(-TICK / SAMPLE_RATE / 0.125)
        self._level: float | None = None

    def feed(self, powers: Powers) -> Powers:
        """Weighted powers (t,) at the end of each tick of `powers` (t,)."""
        weighted = np.empty_like(powers)
        for tick, power in enumerate(powers.tolist()):
            before = power if self._level is None else self._level
            self._level = self._keep * before + (1.0 - self._keep) * power
            weighted[tick] = self._level
        return weighted
