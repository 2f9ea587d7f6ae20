"""Random changes to windows. What is drawn is a value apart from what is done, so each draw can be seen and
repeated.

Shift, level and noise change energies, before the front end normalises them; masks hide features, after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional

from common.protocol.plan import Augmentation

SILENT = 1e-20
"""Energy below which a window is silence; keeps ratios finite."""


@dataclass(frozen=True)
class Changes:
    """What to do to B windows of T frames.

    Args:
        shift: frames (B,) by which a window moves later, negative for earlier.
        gain_db: (B,) change of level.
        snr_db: (B,) signal-to-noise ratio; infinite where no noise is added.
        noise: energies (B, C + T, bands) of the noise, at any level; it begins C frames before the window.
        time_masks: first frame and length (B, n, 2).
        band_masks: first feature and length (B, m, 2).
    """

    shift: Tensor
    gain_db: Tensor
    snr_db: Tensor
    noise: Tensor
    time_masks: Tensor
    band_masks: Tensor


def draw_changes(
    augmentation: Augmentation,
    windows: int,
    noises: Tensor,
    *,
    hop_seconds: float,
    features: int,
    generator: torch.Generator,
) -> Changes:
    """Draw changes for `windows` windows of as many frames as the windows of noise (N, C + T, bands) have,
    what is heard before them included."""
    frames = noises.shape[1]
    furthest = round(augmentation.shift_seconds / hop_seconds)
    lowest, highest = augmentation.noise_snr_db
    snr = lowest + (highest - lowest) * _uniform(windows, generator)
    quiet = _uniform(windows, generator) >= augmentation.noise_probability
    longest = round(augmentation.time_mask_seconds / hop_seconds)
    return Changes(
        shift=torch.randint(-furthest, furthest + 1, (windows,), generator=generator),
        gain_db=augmentation.gain_db * (2 * _uniform(windows, generator) - 1),
        snr_db=snr.masked_fill(quiet, torch.inf),
        noise=noises[torch.randint(noises.shape[0], (windows,), generator=generator)],
        time_masks=_masks(windows, augmentation.time_masks, longest, frames, generator),
        band_masks=_masks(
            windows, augmentation.band_masks, augmentation.band_mask_bands, features, generator
        ),
    )


def joined(parts: Sequence[Changes]) -> Changes:
    """The changes of all windows of `parts`, in that order."""
    names = [field.name for field in fields(Changes)]
    return Changes(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


def change_energies(energies: Tensor, changes: Changes) -> Tensor:
    """Shift, scale and add noise to energies (B, T, bands).

    Frames that a shift leaves empty repeat the frame at the edge, which is background more often than not.
    Powers of independent sounds add in expectation, so noise is added to energies. Where the noise is longer
    than the window (C > 0), it alone is heard before it.

    Returns:
        Energies (B, C + T, bands).
    """
    frames = energies.shape[1]
    source = (torch.arange(frames) - changes.shift.unsqueeze(1)).clamp(0, frames - 1)
    shifted = energies.take_along_dim(source.unsqueeze(2), dim=1)
    signal = shifted * 10 ** (changes.gain_db.view(-1, 1, 1) / 10)
    ratio = 10 ** (-changes.snr_db.view(-1, 1, 1) / 10)
    noise = changes.noise * (ratio * _power(signal) / _power(changes.noise).clamp(min=SILENT))
    return functional.pad(signal, (0, 0, noise.shape[1] - frames, 0)) + noise


def mask_features(features: Tensor, changes: Changes) -> Tensor:
    """Fill hidden parts of features (B, T, F) with the window's mean (SpecAugment, Park et al. 2019)."""
    frames, bands = features.shape[1:]
    hidden = _covered(changes.time_masks, frames).unsqueeze(2) | _covered(
        changes.band_masks, bands
    ).unsqueeze(1)
    return features.where(~hidden, features.mean(dim=(1, 2), keepdim=True))


def _uniform(count: int, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator)


def _masks(windows: int, masks: int, longest: int, size: int, generator: torch.Generator) -> Tensor:
    """First index and length (windows, masks, 2) of stretches within `size`, of 0 to `longest`."""
    draw = torch.rand(2, windows, masks, generator=generator)
    length = (draw[0] * (min(longest, size) + 1)).floor()
    first = (draw[1] * (size - length + 1)).floor()
    return torch.stack((first, length), dim=2).long()


def _covered(masks: Tensor, size: int) -> Tensor:
    """Which of `size` indices (B, size) lie in any of the masks (B, n, 2)."""
    index = torch.arange(size)
    first, length = masks[..., :1], masks[..., 1:]
    return ((index >= first) & (index < first + length)).any(dim=1)


def _power(energies: Tensor) -> Tensor:
    """Mean over time of the sum over bands, (B, 1, 1)."""
    return energies.sum(dim=2, keepdim=True).mean(dim=1, keepdim=True)
