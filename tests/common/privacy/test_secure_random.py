from __future__ import annotations

import numpy as np
import torch
from scipy import stats

from common.privacy.secure_random import SecureRandom

KEY = bytes(range(32))


def test_normal_numbers_are_normal_and_independent() -> None:
    draws = SecureRandom(KEY).normal(200_001)
    assert len(draws) == 200_001
    assert stats.kstest(draws, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.01
    half = len(draws) // 2
    assert abs(np.corrcoef(draws[:half], draws[half : 2 * half])[0, 1]) < 0.01  # the two halves of each pair


def test_uniform_numbers_are_uniform_and_never_zero() -> None:
    draws = SecureRandom(KEY).uniform(200_000)
    assert stats.kstest(draws, "uniform").pvalue > 1e-3
    assert draws.min() > 0
    assert draws.max() < 1


def test_only_a_test_key_fixes_the_stream() -> None:
    assert np.array_equal(SecureRandom(KEY).normal(9), SecureRandom(KEY).normal(9))
    assert not np.array_equal(SecureRandom().normal(9), SecureRandom().normal(9))
    torch.manual_seed(0)
    first = SecureRandom().uniform(9)
    torch.manual_seed(0)
    assert not np.array_equal(SecureRandom().uniform(9), first)


def test_the_stream_does_not_repeat() -> None:
    random = SecureRandom(KEY)
    assert len({random.seed() for _ in range(1000)}) > 990
    assert not np.array_equal(random.uniform(100), random.uniform(100))
