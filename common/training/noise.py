"""Background noise to mix into clips, as the energies a front end sees of it."""

from __future__ import annotations

import torch
from torch import Tensor

from common.audio.batch import BatchFrontEnd

SECONDS = 64.0
"""Noise made at a time; more would slow down the start of a round and teach nothing new."""
FEWEST_WINDOWS = 8
STEEPEST_SLOPE = 2.0


def synthetic_noise(front_end: BatchFrontEnd, frames: int, generator: torch.Generator) -> Tensor:
    """Energies (N, frames, bands) of Gaussian noise whose power falls with frequency as 1 / f^slope.

    Each window has its own slope between 0 (white) and 2 (brown); 1 is pink. The noise goes through the front
    end itself, so bands fluctuate and correlate as those of recorded noise do.
    """
    config = front_end.config
    samples = (frames - 1) * config.hop + config.window
    count = max(FEWEST_WINDOWS, round(SECONDS / (frames * config.hop_seconds)))
    spectrum = torch.fft.rfft(torch.randn(count, samples, generator=generator))
    frequency = torch.arange(spectrum.shape[1]).clamp(min=1)
    slope = STEEPEST_SLOPE * torch.rand(count, 1, generator=generator)
    waveform = torch.fft.irfft(spectrum * frequency ** (-slope / 2), n=samples)
    with torch.no_grad():
        energies: Tensor = front_end.energies(0.1 * waveform / waveform.std(dim=1, keepdim=True))
    return energies
