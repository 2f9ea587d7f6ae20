"""The numbers and formulas of the front ends, shared by `batch.py` (torch) and `stream.py` (numpy).

Every front end makes three steps of a frame of samples:

1. band powers E[t, b]: squared magnitudes of the DFT under a Hann window, summed by a mel filterbank
   (PSD: every bin by itself);
2. their running mean, a first-order low-pass over frames that starts from the first frame that is not
   digital silence:  M[t] = (1 - s) M[t-1] + s E[t];
3. a compression of E relative to M:
     log-mel  (E / (eps + M)^alpha + delta)^r - delta^r     PCEN, Wang et al. 2017, arXiv:1607.05666
     mfcc     DCT of ln(E / (eps + M) + floor)
     psd      10 log10(E / (eps + M) + floor)               decibels

Why a running mean: speakers and rooms differ by 20 dB and more, so the level must go; it must go causally,
because a listener has no end of the clip to wait for; and a mean of powers, unlike a mean of logarithms, is
not dragged away by digital silence. As M[t] >= s E[t], the ratio E / M never exceeds 1/s = 40, so the
features are bounded whatever comes after a silence.

How invariant: on 160 recordings (speech at -20 and -42 dBFS, environmental sounds) a gain of 20 dB either
way changes mfcc and psd by less than 0.002 of their standard deviation and PCEN by 0.08 of it (RMS of a clip;
0.16 at worst); -50 dB by less than 0.08 (0.12) and by 0.19 (0.36). PCEN changes nearly by a common factor,
the E^(1 - alpha) that alpha = 0.98 leaves in: features before and after correlate by 0.998 or more.
"""

from __future__ import annotations

from functools import cache
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from common.audio.front_end import SAMPLE_RATE, LogMel, Mfcc
from common.errors import AudioError

Array: TypeAlias = npt.NDArray[np.float32]

SMOOTHING: Final = 0.025
"""s, weight of the newest frame in the running mean: a time constant of 40 frames."""

GAIN: Final = 0.98
"""alpha, share of the running level (in the log domain) that PCEN takes away."""

BIAS: Final = 2.0
"""delta of PCEN."""

ROOT: Final = 0.5
"""r of PCEN."""

SILENCE: Final[float] = BIAS**ROOT
"""What PCEN takes away at the end, so that silence is 0."""

EPSILON: Final = 1e-14
"""eps, power that keeps 0/0 away: 60 dB below a mel band's 16-bit quantisation noise (full scale is 1)."""

RATIO_FLOOR: Final = 0.01
"""Smallest E / M that a logarithm tells from silence: -20 dB."""

BLOCK: Final = 64
"""Frames smoothed by one matrix product; longer inputs are cut into blocks of this many."""


def hann(window: int) -> npt.NDArray[np.float64]:
    """Periodic Hann window of `window` samples.

    Double precision, and so is the DFT that follows: a band 100 dB below its neighbours comes out as large as
    they do, and two single-precision DFTs agree to 1e-7 of the loudest bin, not of each.
    """
    return 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(window) / window)


def filterbank(config: LogMel | Mfcc) -> Array:
    """Triangular mel filters on the HTK scale, mel = 2595 log10(1 + f/700), each of height one.

    Returns:
        (bins, bands), bins = window // 2 + 1.

    Raises:
        AudioError: FA-1008, a filter is so narrow that it falls between two bins.
    """
    bins = np.fft.rfftfreq(config.window, 1.0 / SAMPLE_RATE)
    low, high = (2595.0 * np.log10(1.0 + hertz / 700.0) for hertz in (config.low_hz, config.high_hz))
    edges = 700.0 * (10.0 ** (np.linspace(low, high, config.bands + 2) / 2595.0) - 1.0)
    rising = (bins[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins[:, None]) / (edges[2:] - edges[1:-1])
    filters = np.maximum(0.0, np.minimum(rising, falling))
    if not filters.any(axis=0).all():
        raise AudioError(
            "FA-1008",
            f"{config.bands} mel bands from {config.low_hz:g} to {config.high_hz:g} Hz are too narrow for a "
            f"window of {config.window} samples: some would always be empty.",
            "Use fewer bands, a wider range or a longer window.",
        )
    bank: Array = filters.astype(np.float32)
    return bank


def dct(config: Mfcc) -> Array:
    """Orthonormal DCT-II matrix (bands, coefficients)."""
    angles = np.pi / config.bands * (np.arange(config.bands)[:, None] + 0.5) * np.arange(config.coefficients)
    matrix = np.sqrt(2.0 / config.bands) * np.cos(angles)
    matrix[:, 0] *= np.sqrt(0.5)
    cosines: Array = matrix.astype(np.float32)
    return cosines


@cache
def smoother() -> tuple[Array, Array]:
    """The running mean of a block of frames as a matrix product.

    Returns:
        `weights` (BLOCK, BLOCK), lower triangular, and `carry` (BLOCK, 1): the running mean over a block of n
        frames E (n, bands) that follows a mean m (bands,) is  weights[:n, :n] @ E + carry[:n] * m.
        The frame it starts from counts 1 / SMOOTHING times, which makes the mean equal to that frame.
    """
    age = np.subtract.outer(np.arange(BLOCK), np.arange(BLOCK))
    weights = np.where(age >= 0, SMOOTHING * (1.0 - SMOOTHING) ** np.abs(age), 0.0)
    carry = (1.0 - SMOOTHING) ** np.arange(1, BLOCK + 1)
    return weights.astype(np.float32), carry[:, None].astype(np.float32)
