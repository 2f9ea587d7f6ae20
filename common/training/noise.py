"""Sound that no clip is of, as the energies a front end sees of it: to mix into clips, or to learn from as
what is no word."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from common.audio.batch import BatchFrontEnd
from common.audio.front_end import FrontEnd
from common.data.features import FeatureSet
from common.errors import TrainingError
from common.protocol.plan import Augmentation

SECONDS = 64.0
"""Noise made at a time; more would slow down the start of a round and teach nothing new."""
FEWEST_WINDOWS = 8
STEEPEST_SLOPE = 2.0

CONTEXT_SECONDS = 0.6
"""Noise before a window, where a model learns what is none of its words: a listener hears sound before a
word, and the running mean of its front end and the model's own state are about that."""

PLACES = 48
"""Windows of the sounds of places, as many of talk, and half as many of crowds."""


def noises_for(
    front_end: BatchFrontEnd,
    data: FeatureSet,
    augmentation: Augmentation,
    noise: FeatureSet | None,
    seed: int,
    *,
    in_places: bool = False,
) -> Tensor:
    """Energies (N, C + T, bands) of the noise to mix into `data`: recorded if there is any, else synthetic.

    Args:
        seed: of synthetic noise.
        in_places: let there be noise before a window, too (C > 0), and the sounds of places and crowds.

    Raises:
        TrainingError: FA-7006, the recorded noise was not read for the same task.
    """
    frames, bands = data.energies.shape[1:]
    if augmentation.noise_probability == 0:
        return torch.zeros(1).expand(1, frames, bands)
    context = round(CONTEXT_SECONDS / front_end.config.hop_seconds) if in_places else 0
    if noise is None or len(noise.labels) == 0:
        found = _synthetic(front_end.config, context + frames, seed)
    elif noise.energies.shape[1:] != (frames, bands):
        raise TrainingError(
            "FA-7006",
            f"The noise has {noise.energies.shape[1:]} frames and bands, the clips have {(frames, bands)}.",
            "Read clips and noise with the same front end and clip_seconds.",
        )
    else:
        found = torch.from_numpy(np.array(noise.energies))
        if context:
            found = _with_more_before(found, context)
    return torch.cat((found, _places(front_end.config, context + frames, seed))) if in_places else found


def sounds_for(front_end: BatchFrontEnd, data: FeatureSet, seed: int) -> Tensor:
    """Energies (N, T, bands) of somebody who says words that mean nothing, and of places."""
    frames = data.energies.shape[1]
    return torch.cat((_talk(front_end.config, frames, seed), _places(front_end.config, frames, seed)))


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
    return _energies(front_end, torch.fft.irfft(spectrum * frequency ** (-slope / 2), n=samples))


@lru_cache(maxsize=2)
def _synthetic(config: FrontEnd, frames: int, seed: int) -> Tensor:
    """Kept for the next training with this seed: to make it takes as long as to train on seventy windows."""
    return synthetic_noise(BatchFrontEnd(config), frames, torch.Generator().manual_seed(seed))


@lru_cache(maxsize=2)
def _places(config: FrontEnd, frames: int, seed: int) -> Tensor:
    # scipy takes long to load, and most trainings do without.
    from common.data.synthetic.textures import draw_texture
    from common.evaluation.noises import crowd

    random, samples = np.random.default_rng(seed), (frames - 1) * config.hop + config.window
    heard = [draw_texture(samples, random) for _ in range(PLACES)]
    heard += [crowd(samples, random) for _ in range(PLACES // 2)]
    return _energies(BatchFrontEnd(config), torch.from_numpy(np.stack(heard)).float())


@lru_cache(maxsize=2)
def _talk(config: FrontEnd, frames: int, seed: int) -> Tensor:
    from common.evaluation.noises import talk

    random, samples = np.random.default_rng(seed), (frames - 1) * config.hop + config.window
    said = talk(PLACES * samples, random).reshape(PLACES, samples)
    return _energies(BatchFrontEnd(config), torch.from_numpy(said).float())


def _with_more_before(noise: Tensor, frames: int) -> Tensor:
    """Each window of `noise` (N, T, bands) after the last `frames` of the ones before it, round and round."""
    long = noise.flatten(0, 1)
    long = torch.cat((long[(torch.arange(-frames, 0) % len(long))], long))
    return long.unfold(0, frames + noise.shape[1], noise.shape[1]).transpose(1, 2)


@torch.no_grad()
def _energies(front_end: BatchFrontEnd, waveform: Tensor) -> Tensor:
    """Of waveforms (N, S) at any level."""
    level = waveform.std(dim=1, keepdim=True)
    energies: Tensor = front_end.energies(0.1 * waveform / level.clamp(min=1e-9))
    return energies
