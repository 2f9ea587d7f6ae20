from __future__ import annotations

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import ECB
from scipy import stats

from common.privacy.secure_random import SecureRandom

KEY = bytes(range(32))


def test_uniform_numbers_are_uniform_and_independent() -> None:
    draws = SecureRandom(KEY).uniform(200_000)
    assert stats.kstest(draws, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.01
    assert 0 <= draws.min() < draws.max() < 1


def test_every_bit_of_a_word_is_as_often_set_as_not() -> None:
    words = SecureRandom(KEY).words(100_000)
    for bit in range(64):
        share = np.mean(words >> np.uint64(bit) & np.uint64(1))
        assert abs(share - 0.5) < 4.5 * 0.5 / np.sqrt(len(words))


def test_the_stream_is_aes_256_in_counter_mode() -> None:
    """Its first block, by the cipher alone (NIST SP 800-38A, section 6.5, with a counter from zero)."""
    block = Cipher(AES256(KEY), ECB()).encryptor().update(bytes(16))  # noqa: S305
    assert SecureRandom(KEY).words(2).astype("<u8").tobytes() == block


def test_only_a_test_key_fixes_the_stream() -> None:
    assert np.array_equal(SecureRandom(KEY).uniform(9), SecureRandom(KEY).uniform(9))
    assert not np.array_equal(SecureRandom().uniform(9), SecureRandom().uniform(9))
    torch.manual_seed(0)
    first = SecureRandom().uniform(9)
    torch.manual_seed(0)
    assert not np.array_equal(SecureRandom().uniform(9), first)


def test_the_stream_does_not_repeat() -> None:
    random = SecureRandom(KEY)
    assert len({random.seed() for _ in range(1000)}) > 990
    assert not np.array_equal(random.uniform(100), random.uniform(100))
