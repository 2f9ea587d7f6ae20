"""What the features of a clip must be, whatever the front end: causal, bounded, indifferent to level."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from common.audio import mel
from common.audio.batch import BatchFrontEnd
from common.audio.front_end import FrontEnd, LogMel, Mfcc, Psd
from common.audio.mel import Array
from common.audio.torchaudio_import import import_torchaudio

FRONT_ENDS: tuple[FrontEnd, ...] = (LogMel(), Mfcc(), Psd())
every_front_end = pytest.mark.parametrize("config", FRONT_ENDS, ids=lambda config: config.kind)

BOUNDS = {"log-mel": (0.0, 6.0), "mfcc": (-40.0, 40.0), "psd": (-20.01, 16.1)}


def noise(samples: int, level_db: float = -20.0, clips: int = 1) -> Tensor:
    return torch.randn(clips, samples, generator=torch.Generator().manual_seed(0)) * 10.0 ** (level_db / 20.0)


def tone(hertz: float, samples: int = 16_000) -> Tensor:
    return torch.sin(2 * torch.pi * hertz * torch.arange(samples) / 16_000)[None]


def test_mel_powers_are_torchaudios() -> None:
    waveform = noise(16_000, clips=3)
    theirs = import_torchaudio().transforms.MelSpectrogram(
        sample_rate=16_000, n_fft=400, hop_length=160, f_min=60.0, f_max=7600.0, n_mels=40, center=False
    )(waveform)
    ours = BatchFrontEnd(LogMel()).energies(waveform)
    assert ours.shape == (3, 98, 40)
    assert torch.allclose(ours, theirs.transpose(1, 2), rtol=1e-4)


@every_front_end
@pytest.mark.parametrize("samples", [0, 1, 399, 400, 559, 560, 16_000])
@pytest.mark.parametrize("clips", [0, 1, 2])
def test_shapes(config: FrontEnd, samples: int, clips: int) -> None:
    front_end = BatchFrontEnd(config)
    waveform = noise(samples, clips=clips)
    assert front_end.energies(waveform).shape == (clips, config.frames(samples), config.bands)
    assert front_end(waveform).shape == (clips, config.frames(samples), config.features)


def test_a_tone_lands_in_its_bin_with_its_power() -> None:
    energies = BatchFrontEnd(Psd()).energies(tone(1000.0))[0]
    assert (energies.argmax(dim=1) == 25).all()  # bins are 40 Hz apart
    assert torch.allclose(energies[:, 25], torch.tensor(100.0**2), rtol=1e-4)


@pytest.mark.parametrize("hertz", [200.0, 1000.0, 4000.0, 7000.0])
def test_a_tone_lands_in_its_mel_band(hertz: float) -> None:
    def to_mel(hz: float) -> float:
        return float(2595 * np.log10(1 + hz / 700))

    band = (to_mel(hertz) - to_mel(60.0)) / ((to_mel(7600.0) - to_mel(60.0)) / 41) - 1
    loudest = BatchFrontEnd(LogMel()).energies(tone(hertz))[0].mean(dim=0).argmax()
    assert abs(int(loudest) - band) < 1


@every_front_end
@given(cut=st.integers(400, 16_000), seed=st.integers(0, 100))
@settings(max_examples=15, deadline=None)
def test_later_samples_change_nothing_earlier(config: FrontEnd, cut: int, seed: int) -> None:
    front_end = BatchFrontEnd(config)
    waveform = noise(16_000)
    changed = waveform.clone()
    changed[:, cut:] = 10 * torch.randn(16_000 - cut, generator=torch.Generator().manual_seed(seed))
    known = config.frames(cut)
    assert torch.equal(front_end(waveform)[:, :known], front_end(changed)[:, :known])


def gain_error(config: FrontEnd, samples: Array, gain_db: float) -> tuple[float, float, float]:
    """RMS change of the features under a gain, their own standard deviation, correlation of both."""
    front_end = BatchFrontEnd(config)
    waveform = torch.from_numpy(samples)[None]
    features = front_end(waveform)
    changed = front_end(waveform * 10.0 ** (gain_db / 20.0))
    correlation = torch.corrcoef(torch.stack([features.flatten(), changed.flatten()]))[0, 1]
    return float((changed - features).square().mean().sqrt()), float(features.std()), float(correlation)


@pytest.mark.parametrize("gain_db", [-50.0, -20.0, 20.0])
def test_pcen_changes_little_with_level(recording: Array, gain_db: float) -> None:
    change, spread, correlation = gain_error(LogMel(), recording, gain_db)
    assert change < 0.008 * spread * abs(gain_db)
    assert correlation > 0.998


@pytest.mark.parametrize("config", [Mfcc(), Psd()], ids=lambda config: config.kind)
@pytest.mark.parametrize("gain_db", [-20.0, 20.0])
def test_ratios_to_the_running_mean_do_not_change_with_level(
    config: FrontEnd, recording: Array, gain_db: float
) -> None:
    change, spread, _ = gain_error(config, recording, gain_db)
    assert change < 0.03 * spread


@every_front_end
@pytest.mark.parametrize("level_db", [-90.0, -30.0, 10.0])
def test_bounded_whatever_follows_a_silence(config: FrontEnd, level_db: float) -> None:
    waveform = noise(32_000, level_db)
    waveform[:, :8000] = 0.0
    waveform[:, 20_000:26_000] = 0.0
    features = BatchFrontEnd(config)(waveform)
    low, high = BOUNDS[config.kind]
    assert features.isfinite().all()
    assert low <= features.min()
    assert features.max() <= high


@every_front_end
def test_digital_silence_is_one_constant(config: FrontEnd) -> None:
    features = BatchFrontEnd(config)(torch.zeros(1, 16_000))[0]
    assert features.isfinite().all()
    assert torch.equal(features, features[:1].expand_as(features))


def test_silence_is_zero_for_pcen() -> None:
    assert BatchFrontEnd(LogMel())(torch.zeros(1, 16_000)).abs().max() < 1e-6


@every_front_end
@pytest.mark.parametrize("shift", [1, 30, 70])
def test_leading_silence_only_delays(config: FrontEnd, shift: int) -> None:
    front_end = BatchFrontEnd(config)
    energies = front_end.energies(noise(32_000, clips=2))
    delayed = torch.cat([torch.zeros(2, shift, config.bands), energies], dim=1)
    expected = front_end.normalise(energies)
    assert torch.allclose(front_end.normalise(delayed)[:, shift:], expected, atol=1e-4)


@every_front_end
def test_clips_of_a_batch_do_not_touch(config: FrontEnd) -> None:
    front_end = BatchFrontEnd(config)
    clips = noise(16_000, clips=3)
    clips[1] = 0.0
    clips[2, :5000] = 0.0
    alone = torch.cat([front_end(clip[None]) for clip in clips])
    assert torch.allclose(front_end(clips), alone, atol=1e-5)


@every_front_end
def test_gradient_is_that_of_the_function(config: FrontEnd) -> None:
    front_end = BatchFrontEnd(config).double()
    waveform = noise(400 + 160 * (mel.BLOCK + 3)).double().requires_grad_()
    direction = torch.randn(waveform.shape, generator=torch.Generator().manual_seed(1)).double()
    direction /= direction.norm()
    step = 1e-3

    def total(samples: Tensor) -> Tensor:
        return front_end(samples).double().square().sum()

    total(waveform).backward()
    assert waveform.grad is not None
    slope = float((waveform.grad * direction).sum())
    with torch.no_grad():
        difference = float(total(waveform + step * direction) - total(waveform - step * direction)) / (
            2 * step
        )
    assert slope == pytest.approx(difference, rel=0.02)


def test_gradient_is_finite_where_there_is_silence() -> None:
    waveform = noise(16_000)
    waveform[:, :8000] = 0.0
    waveform.requires_grad_()
    BatchFrontEnd(LogMel())(waveform).sum().backward()
    assert waveform.grad is not None
    assert waveform.grad.isfinite().all()


def test_pcen_is_the_paper_s_formula() -> None:
    energies = BatchFrontEnd(LogMel()).energies(noise(32_000))
    powers = energies[0].double().numpy()
    mean = powers[0]
    expected = []
    for power in powers:
        mean = (1 - 0.025) * mean + 0.025 * power
        expected.append((power / (mel.EPSILON + mean) ** 0.98 + 2.0) ** 0.5 - 2.0**0.5)
    found = BatchFrontEnd(LogMel()).normalise(energies)[0].numpy()
    assert np.abs(found - np.stack(expected)).max() < 1e-5
