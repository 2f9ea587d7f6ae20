"""The golden clip: sound that every release is tried on before a device takes it.

It is computed with integers alone, so it is the same bit by bit whatever library or processor made it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.audio.front_end import SAMPLE_RATE

LOWEST_HZ, HIGHEST_HZ = 80, 7000
CLICK_EVERY, CLICK_SAMPLES, CLICK_LEVEL = 3001, 3, 12_000
_TURN = 1 << 32


def golden_clip(samples: int) -> NDArray[np.float32]:
    """`samples` of a chirp from `LOWEST_HZ` to `HIGHEST_HZ` at a quarter of full scale, with clicks.

    Its phase is counted in 2^-32 of a turn; a parabola stands for each half of the sine.
    """
    i = np.arange(samples, dtype=np.int64)
    first = LOWEST_HZ * _TURN // SAMPLE_RATE
    rise = (HIGHEST_HZ - LOWEST_HZ) * _TURN // SAMPLE_RATE // max(1, samples)
    phase = (first * i + rise * (i * i // 2)) % _TURN
    saw = (phase >> 16) - 32_768
    sine = (saw * (32_768 - np.abs(saw))) >> 15
    clicks = np.where(i % CLICK_EVERY < CLICK_SAMPLES, CLICK_LEVEL, 0)
    clip: NDArray[np.float32] = ((sine + clicks) / 32_768).astype(np.float32)
    return clip
