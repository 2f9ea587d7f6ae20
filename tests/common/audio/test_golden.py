"""The golden clip is the same samples for ever: a coordinator and a device must not differ by a bit."""

from __future__ import annotations

import numpy as np
import pytest

from common.audio.front_end import SAMPLE_RATE
from common.audio.golden import CLICK_EVERY, HIGHEST_HZ, LOWEST_HZ, golden_clip
from common.protocol.release import digest_of


@pytest.mark.parametrize(
    ("samples", "digest"),
    [
        (0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        (16_000, "0e03380446b44e3e649b1b6943e424125dfd64e8d59bfa4b4de6d42abbc01fab"),
    ],
)
def test_its_samples_are_frozen(samples: int, digest: str) -> None:
    assert digest_of(golden_clip(samples)) == digest


@pytest.mark.parametrize("samples", [1, 401, 4000, 16_000, 480_000])
def test_it_is_sound_of_any_length(samples: int) -> None:
    clip = golden_clip(samples)
    assert clip.shape == (samples,)
    assert clip.dtype == np.float32
    assert np.abs(clip).max() < 1
    # Sixteen bits hold it exactly.
    np.testing.assert_array_equal(clip * 32768, np.round(clip * 32768))


def test_it_rises_from_the_lowest_to_the_highest_and_clicks() -> None:
    clip = golden_clip(SAMPLE_RATE)
    quiet = clip[CLICK_EVERY + 3 : 2 * CLICK_EVERY]
    assert np.abs(quiet).max() == 0.25
    assert clip[CLICK_EVERY : CLICK_EVERY + 3].max() > 0.25

    def strongest(part: np.ndarray) -> float:
        return float(np.abs(np.fft.rfft(part)).argmax() * SAMPLE_RATE / len(part))

    assert strongest(clip[:1600]) < LOWEST_HZ + 0.1 * (HIGHEST_HZ - LOWEST_HZ) + 10
    assert strongest(clip[-1600:]) > HIGHEST_HZ - 0.1 * (HIGHEST_HZ - LOWEST_HZ) - 10
