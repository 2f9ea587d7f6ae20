"""A clip of any length as windows of one length."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def cut_windows(samples: NDArray[np.float32], length: int) -> NDArray[np.float32]:
    """Samples (n,) as windows (N, length); N is at least 1.

    A clip shorter than a window is padded with zeros at its end; a longer one gives consecutive windows, of
    which the last is padded and kept if sound fills at least half of it.
    """
    whole, rest = divmod(len(samples), length)
    count = max(1, whole + (2 * rest >= length))
    samples = samples[: count * length]
    return np.pad(samples, (0, count * length - len(samples))).reshape(count, length)
