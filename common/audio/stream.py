"""Samples to features as they arrive, in numpy: the front end of the listener."""

from __future__ import annotations

import numpy as np

from common.audio import mel
from common.audio.front_end import LOUDEST, FrontEnd, Mfcc, Psd
from common.audio.mel import Array


def believable(samples: Array) -> Array:
    """`samples` (n,) with NaN taken as 0 and absurd values limited to +-`LOUDEST`: faults of a source."""
    with np.errstate(over="ignore", invalid="ignore"):
        if np.dot(samples, samples) <= LOUDEST**2:  # False for NaN
            return samples
    return np.nan_to_num(samples, nan=0.0).clip(-LOUDEST, LOUDEST)


class StreamFrontEnd:
    """The features of `batch.BatchFrontEnd`, to 1e-4, however the samples are cut into blocks.

    Keeps less than a window of samples and one running mean per band, whatever has gone by.

    Args:
        config: which front end.

    Attributes:
        heard: frames so far. The more of them, the less it matters how it began.

    Raises:
        AudioError: FA-1008, mel bands too narrow for the window.
    """

    def __init__(self, config: FrontEnd) -> None:
        self.config = config
        self._hann = mel.hann(config.window)
        self._filters = None if isinstance(config, Psd) else mel.filterbank(config)
        self._cosines = mel.dct(config) if isinstance(config, Mfcc) else None
        self._weights, self._carry = mel.smoother()
        self.reset()

    def reset(self, skip: int = 0) -> None:
        """Forget everything heard, as if new; the next `skip` samples belong to no frame."""
        self._pending = np.empty(0, np.float32)
        self._skip = skip
        self._mean = np.zeros(self.config.bands, np.float32)
        self._started = False
        self.heard = 0

    def feed(self, samples: Array) -> Array:
        """Features (t, features) of the frames that `samples` (n,) complete; t may be 0.

        Samples are at 16 kHz, full scale 1. What is not `believable` fades from the running mean instead of
        deafening the stream for good.
        """
        samples = believable(samples)
        if self._skip:  # a hop longer than the window leaves samples that belong to no frame
            skipped = min(self._skip, len(samples))
            samples = samples[skipped:]
            self._skip -= skipped
        pending = np.concatenate((self._pending, samples), dtype=np.float32)
        frames = self.config.frames(len(pending))
        hop = self.config.hop
        blocks = [
            self._normalise(self._energies(pending[start * hop :], min(mel.BLOCK, frames - start)))
            for start in range(0, frames, mel.BLOCK)
        ]
        self.heard += frames
        self._skip += max(0, frames * hop - len(pending))
        self._pending = pending[frames * hop :].copy()
        if len(blocks) == 1:
            return blocks[0]
        return np.concatenate(blocks) if blocks else np.empty((0, self.config.features), np.float32)

    def follow(self, other: StreamFrontEnd) -> None:
        """Go on from where `other` is, of the same config, as if what it has heard had been fed here."""
        # None of these is ever written into, so both can go on from them.
        self._pending, self._skip = other._pending, other._skip
        self._mean, self._started = other._mean, other._started
        self.heard = other.heard

    def _energies(self, samples: Array, count: int) -> Array:
        """Band powers (count, bands) of the first `count` frames of `samples`."""
        step = samples.itemsize
        frames = np.ndarray(
            (count, self.config.window), np.float32, samples, strides=(self.config.hop * step, step)
        )
        spectrum = np.fft.rfft(frames * self._hann)
        power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32)
        return power if self._filters is None else power @ self._filters

    def _normalise(self, energies: Array) -> Array:
        """Features (t, features) of the next t <= BLOCK frames' band powers."""
        level = self._running_mean(energies) + mel.EPSILON
        if isinstance(self.config, Psd):
            return np.float32(10.0) * np.log10(energies / level + mel.RATIO_FLOOR)
        if self._cosines is not None:
            return np.log(energies / level + mel.RATIO_FLOOR) @ self._cosines
        gain: Array = level**-mel.GAIN
        return (energies * gain + mel.BIAS) ** mel.ROOT - mel.SILENCE

    def _running_mean(self, energies: Array) -> Array:
        """M of `mel.py` (t, bands), carried on from the frames before."""
        frames = len(energies)
        if not self._started:
            heard = energies.any(axis=1)
            self._started = bool(heard.any())
            weight = np.where(np.arange(frames) == heard.argmax(), 1.0 / mel.SMOOTHING, 1.0)
            energies = energies * weight[:, None].astype(np.float32)
        mean = self._weights[:frames, :frames] @ energies + self._carry[:frames] * self._mean
        self._mean = mean[-1]
        return mean
