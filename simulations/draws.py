"""Random numbers that follow from a seed and what they are for, so it does not matter who draws first."""

from __future__ import annotations

import hashlib
import json

import numpy as np


def draws(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """A stream that looks independent of that of any other seed, purpose and numbers.

    Hashed, for numpy's own lists of seeds are the same with a zero more at the end.
    """
    text = json.dumps([seed, purpose, *numbers])
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()))
