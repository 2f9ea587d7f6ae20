"""The shared numbers, against torchaudio and against their definitions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from common.audio import mel
from common.audio.front_end import SAMPLE_RATE, LogMel, Mfcc
from common.audio.torchaudio_import import import_torchaudio
from common.errors import AudioError


@pytest.fixture
def double_precision() -> Iterator[None]:
    """Let torchaudio compute in double precision; its own single precision is off by up to 1e-5."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    "config",
    [
        LogMel(),
        LogMel(window=512, bands=64, low_hz=20.0, high_hz=8000.0),
        Mfcc(window=1024, hop=256, bands=128),
    ],
)
@pytest.mark.usefixtures("double_precision")
def test_filterbank_is_torchaudios(config: LogMel | Mfcc) -> None:
    theirs = import_torchaudio().functional.melscale_fbanks(
        n_freqs=config.window // 2 + 1,
        f_min=config.low_hz,
        f_max=config.high_hz,
        n_mels=config.bands,
        sample_rate=SAMPLE_RATE,
        norm=None,
        mel_scale="htk",
    )
    assert np.abs(mel.filterbank(config) - theirs.numpy()).max() < 1e-6


def test_no_band_is_empty() -> None:
    filters = mel.filterbank(LogMel())
    assert filters.shape == (201, 40)
    assert filters.max(axis=0).min() > 0.6


@pytest.mark.parametrize("config", [LogMel(bands=128), Mfcc(window=64)])
def test_a_band_that_would_be_empty_is_an_error(config: LogMel | Mfcc) -> None:
    with pytest.raises(AudioError) as caught:
        mel.filterbank(config)
    assert caught.value.code == "FA-1008"


def test_window_is_the_periodic_hann_window() -> None:
    assert np.allclose(mel.hann(400), torch.hann_window(400, dtype=torch.float64).numpy(), atol=1e-15)


def test_dct_is_orthonormal_and_torchaudios() -> None:
    full = mel.dct(Mfcc(coefficients=40))
    assert np.allclose(full.T @ full, np.eye(40), atol=1e-6)
    theirs = import_torchaudio().functional.create_dct(20, 40, norm="ortho").numpy()
    assert np.abs(mel.dct(Mfcc()) - theirs).max() < 1e-6


def test_smoother_is_the_recursion() -> None:
    weights, carry = mel.smoother()
    powers = np.random.default_rng(0).exponential(size=(mel.BLOCK, 3))
    before = mean = np.array([0.1, 1.0, 10.0])
    recursion = []
    for frame in powers:
        mean = (1 - mel.SMOOTHING) * mean + mel.SMOOTHING * frame
        recursion.append(mean)
    assert np.allclose(weights @ powers + carry * before, recursion, rtol=1e-5)
