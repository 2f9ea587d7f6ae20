"""Each change does to a window what its name says."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from common.audio.batch import BatchFrontEnd
from common.protocol.plan import Augmentation
from common.training.augment import Changes, change_energies, draw_changes, mask_features
from common.training.noise import synthetic_noise

FRAMES, BANDS = 30, 12
OFF = Augmentation(shift_seconds=0, gain_db=0, noise_probability=0, time_masks=0, band_masks=0)


def draw(augmentation: Augmentation, windows: int = 500, seed: int = 0) -> Changes:
    generator = torch.Generator().manual_seed(seed)
    noises = torch.rand(9, FRAMES, BANDS, generator=generator)
    return draw_changes(augmentation, windows, noises, hop_seconds=0.01, features=BANDS, generator=generator)


def energies(windows: int = 500) -> Tensor:
    return torch.rand(windows, FRAMES, BANDS, generator=torch.Generator().manual_seed(1)) + 0.1


def decibels(ratio: Tensor) -> Tensor:
    return 10 * ratio.log10()


def test_switched_off_nothing_changes() -> None:
    changes, sound = draw(OFF), energies()
    torch.testing.assert_close(change_energies(sound, changes), sound, atol=0, rtol=0)
    torch.testing.assert_close(mask_features(sound, changes), sound, atol=0, rtol=0)


def test_the_same_generator_draws_the_same_changes() -> None:
    first, again, other = (draw(Augmentation(), seed=seed) for seed in (3, 3, 4))
    sound = energies()
    assert torch.equal(change_energies(sound, first), change_energies(sound, again))
    assert torch.equal(mask_features(sound, first), mask_features(sound, again))
    assert not torch.equal(change_energies(sound, first), change_energies(sound, other))


@settings(max_examples=30, deadline=None)
@given(st.integers(-FRAMES, FRAMES))
def test_a_shift_moves_frames_and_repeats_the_edge(shift: int) -> None:
    changes, sound = draw(OFF, 1), energies(1)
    moved = change_energies(sound, replace(changes, shift=torch.tensor([shift])))
    for frame in range(FRAMES):
        source = min(max(frame - shift, 0), FRAMES - 1)
        assert torch.equal(moved[0, frame], sound[0, source])


def test_shifts_reach_both_ways_and_no_further_than_asked() -> None:
    shifts = draw(OFF.model_copy(update={"shift_seconds": 0.05})).shift
    assert (shifts.min(), shifts.max()) == (-5, 5)


def test_gain_changes_the_level_by_the_drawn_decibels() -> None:
    changes, sound = draw(OFF.model_copy(update={"gain_db": 6.0})), energies()
    level = decibels(change_energies(sound, changes).mean((1, 2)) / sound.mean((1, 2)))
    torch.testing.assert_close(level, changes.gain_db, atol=1e-3, rtol=0)
    assert changes.gain_db.abs().max() <= 6.0
    assert changes.gain_db.std() > 3.0


@pytest.mark.parametrize("level", [1e-9, 1.0, 1e6])
def test_noise_comes_in_at_the_drawn_ratio_whatever_the_levels(level: float) -> None:
    augmentation = OFF.model_copy(update={"noise_probability": 0.5, "noise_snr_db": (5.0, 25.0)})
    changes, sound = draw(augmentation), level * energies()
    changes = replace(changes, noise=changes.noise * 123.0)
    noise = change_energies(sound.double(), changes) - sound
    noisy = changes.snr_db.isfinite()
    ratio = decibels(sound[noisy].sum((1, 2)) / noise[noisy].sum((1, 2)))
    torch.testing.assert_close(ratio.float(), changes.snr_db[noisy], atol=0.01, rtol=0)
    assert noise[~noisy].abs().max() == 0
    assert 0.4 < noisy.float().mean() < 0.6
    assert changes.snr_db[noisy].min() >= 5.0
    assert changes.snr_db[noisy].max() <= 25.0


def test_silence_stays_finite() -> None:
    changes = draw(OFF.model_copy(update={"noise_probability": 1.0}))
    silence = torch.zeros(500, FRAMES, BANDS)
    assert change_energies(silence, changes).count_nonzero() == 0
    no_noise = replace(changes, noise=torch.zeros_like(changes.noise))
    assert change_energies(energies(), no_noise).isfinite().all()


def test_masks_hide_whole_frames_and_bands_with_the_mean() -> None:
    changes = draw(
        OFF.model_copy(
            update={"time_masks": 2, "time_mask_seconds": 0.06, "band_masks": 1, "band_mask_bands": 3}
        )
    )
    sound = energies()
    masked = mask_features(sound, changes)
    for window in range(50):
        hidden = torch.zeros(FRAMES, BANDS, dtype=torch.bool)
        for first, length in changes.time_masks[window]:
            hidden[first : first + length] = True
        for first, length in changes.band_masks[window]:
            hidden[:, first : first + length] = True
        assert torch.equal(masked[window][~hidden], sound[window][~hidden])
        assert (masked[window][hidden] - sound[window].mean()).abs().max() < 1e-5 if hidden.any() else True
    for masks, longest, size in ((changes.time_masks, 6, FRAMES), (changes.band_masks, 3, BANDS)):
        assert (masks[..., 1].min(), masks[..., 1].max()) == (0, longest)
        assert masks.sum(dim=2).max() == size  # a mask may touch the end, none passes it


def test_masks_longer_than_the_window_hide_at_most_the_window() -> None:
    changes = draw(OFF.model_copy(update={"time_masks": 3, "time_mask_seconds": 5.0}))
    assert changes.time_masks.sum(dim=2).max() <= FRAMES
    assert mask_features(energies(), changes).isfinite().all()


def test_synthetic_noise_is_white_to_brown(front_end: BatchFrontEnd) -> None:
    noise = synthetic_noise(front_end, 98, torch.Generator().manual_seed(0))
    assert noise.shape[1:] == (98, 12)
    slopes = decibels(noise.mean(1)[:, 0] / noise.mean(1)[:, -1])
    octaves = 5  # from the lowest band to the highest, roughly; brown noise falls by 6 dB in each
    assert slopes.min() < 3  # mel bands widen, so white noise even rises
    assert 10 < slopes.max() < 6 * (octaves + 1)
    # Power in a narrow band of Gaussian noise is nearly exponential: its deviation is about its mean.
    spread = (noise.std(1) / noise.mean(1))[:, 0]
    assert 0.4 < spread.mean() < 1.5
