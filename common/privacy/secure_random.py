"""Random numbers nobody can predict: AES-256 in counter mode under a key from the operating system.

torch's own generator does not serve: a `torch.Generator` on the CPU uses only the low 32 bits of its seed, so
whoever sees an update could try all four billion noise streams; and the `secure_mode` of Opacus needs
torchcsprng, which no longer builds.

What this does not protect: the noise is Gaussian in floating point, so the low bits of a sum could in
principle betray the value it hides (Mironov 2012; Jin et al. 2022), and its timing is not constant.
"""

from __future__ import annotations

import math
import os

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

KEY_BYTES = 32


class SecureRandom:
    """A stream of random numbers.

    Args:
        test_key: 32 bytes that fix the stream, for tests only. Without it the key comes from `os.urandom`, is
            used once and is never stored.
    """

    def __init__(self, test_key: bytes | None = None) -> None:
        key = os.urandom(KEY_BYTES) if test_key is None else test_key
        self._stream = Cipher(AES256(key), CTR(bytes(16))).encryptor()

    def uniform(self, count: int) -> npt.NDArray[np.float64]:
        """`count` numbers in (0, 1), with 53 random bits each."""
        words = np.frombuffer(self._stream.update(bytes(8 * count)), np.uint64)
        return ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53

    def normal(self, count: int) -> npt.NDArray[np.float64]:
        """`count` standard normal numbers (Box and Muller 1958)."""
        pairs = (count + 1) // 2
        radius = np.sqrt(-2 * np.log(self.uniform(pairs)))
        angle = 2 * math.pi * self.uniform(pairs)
        return np.concatenate((radius * np.cos(angle), radius * np.sin(angle)))[:count]

    def seed(self) -> int:
        """A seed for one generator of changes to a clip; 32 bits, all that torch would use."""
        return int.from_bytes(self._stream.update(bytes(4)), "little")
