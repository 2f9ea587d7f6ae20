"""How a device hears: its microphone's response and the noise around it, as changes to band energies."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from common.audio.batch import BatchFrontEnd
from common.task import Task
from common.training.augment import Changes, change_energies
from common.training.noise import synthetic_noise
from simulations.draws import draws

Energies = NDArray[np.float32]
"""Linear band powers, (windows, frames, bands)."""

_WAVES = 6
"""Half waves over all bands that a response may have at most: microphones colour, they do not comb."""


def hear(
    energies: Energies,
    device: int,
    seed: int,
    *,
    microphone_db: float,
    noise_snr_db: tuple[float, float] | None,
    noises: Energies,
) -> Energies:
    """What `device` hears of `energies`; follows from its number and `seed`, and is the same at every call.

    It is in one place: all its windows have noise of one colour and at one SNR, drawn from `noise_snr_db`;
    each has it from another moment. The microphone hears sound and noise alike.

    Args:
        noises: windows of noise to choose from, see `make_noises`.
    """
    if noise_snr_db is not None:
        energies = _with_noise(energies, noises, noise_snr_db, draws(seed, "noise", device))
    if microphone_db:
        gains_db = response_db(energies.shape[2], microphone_db, draws(seed, "microphone", device))
        energies = energies * 10 ** (gains_db / 10).astype(np.float32)
    return energies


def response_db(bands: int, spread_db: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Gain of each band: smooth, of mean 0, and over many microphones of standard deviation `spread_db`."""
    waves = np.arange(1, _WAVES + 1)
    # Cosines of the DCT-II have a mean of 0 and a mean square of a half.
    shapes = np.cos(np.pi * np.outer(waves, (np.arange(bands) + 0.5) / bands))
    weights: NDArray[np.float64] = rng.standard_normal(_WAVES) * spread_db * np.sqrt(2 / _WAVES)
    return weights @ shapes


def make_noises(task: Task, seed: int) -> Energies:
    """Windows of synthetic noise, each of its own colour, for devices to choose from."""
    generator = torch.Generator().manual_seed(int(draws(seed, "noises").integers(2**32)))
    noises: Energies = synthetic_noise(BatchFrontEnd(task.front_end), task.clip_frames, generator).numpy()
    return noises


def _with_noise(
    energies: Energies, noises: Energies, snr_db: tuple[float, float], rng: np.random.Generator
) -> Energies:
    noise, snr = noises[rng.integers(len(noises))], rng.uniform(*snr_db)
    moments = rng.integers(len(noise), size=(len(energies), 1))
    nothing = torch.zeros(len(energies), 0, 2, dtype=torch.int64)
    changes = Changes(
        shift=torch.zeros(len(energies), dtype=torch.int64),
        gain_db=torch.zeros(len(energies)),
        snr_db=torch.full((len(energies),), snr),
        noise=torch.from_numpy(noise[(np.arange(len(noise)) + moments) % len(noise)]),
        time_masks=nothing,
        band_masks=nothing,
    )
    heard: Energies = change_energies(torch.from_numpy(np.array(energies)), changes).numpy()
    return heard
