"""Random numbers nobody can predict: AES-256 in counter mode under a key from the operating system.

torch's own generator does not serve: a `torch.Generator` on the CPU uses only the low 32 bits of its seed, so
whoever sees an update could try all four billion noise streams; and the `secure_mode` of Opacus needs
torchcsprng, which no longer builds.
"""

from __future__ import annotations

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

    def words(self, count: int) -> npt.NDArray[np.uint64]:
        """`count` words of 64 random bits each."""
        return np.frombuffer(self._stream.update(bytes(8 * count)), "<u8").astype(np.uint64, copy=False)

    def uniform(self, count: int) -> npt.NDArray[np.float64]:
        """`count` multiples of 2^-53 in [0, 1)."""
        return (self.words(count) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def seed(self) -> int:
        """A seed for one generator of changes to a clip; 32 bits, all that torch would use."""
        return int.from_bytes(self._stream.update(bytes(4)), "little")
