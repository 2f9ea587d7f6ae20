"""Windows of a data set as features, changed at random or as they are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from common.audio.batch import BatchFrontEnd
from common.audio.front_end import FrontEnd
from common.data.features import FeatureSet, Windows
from common.errors import TrainingError
from common.protocol.plan import Augmentation
from common.training.augment import Changes, change_energies, draw_changes, joined, mask_features
from common.training.noise import synthetic_noise


def plain_features(front_end: BatchFrontEnd, data: FeatureSet, windows: Windows) -> Tensor:
    """Features (B, T, F) of `windows` as they are."""
    if data.features is not None:
        return torch.from_numpy(data.features[windows])
    with torch.no_grad():
        features: Tensor = front_end.normalise(torch.from_numpy(data.energies[windows]))
    return features


def labels_of(data: FeatureSet, windows: Windows) -> Tensor:
    """Labels (B,) of `windows`."""
    return torch.from_numpy(data.labels[windows])


@dataclass(frozen=True)
class Augmented:
    """A data set seen through random changes.

    Args:
        noises: energies (N, T, bands) to mix in, see `noises_for`.
    """

    front_end: BatchFrontEnd
    data: FeatureSet
    augmentation: Augmentation
    noises: Tensor

    @torch.no_grad()
    def features(self, windows: Windows, generator: torch.Generator) -> Tensor:
        """Features (B, T, F) of `windows`, changed as `generator` says."""
        if self.augmentation.is_off:
            return plain_features(self.front_end, self.data, windows)
        return self._changed(windows, self._draw(len(windows), generator))

    @torch.no_grad()
    def views(self, windows: Windows, views: int, generators: Iterable[torch.Generator]) -> Tensor:
        """Features (B * views, T, F) of `views` views of each of `windows`, those of one in a row, changed as
        its own generator says."""
        repeated = np.repeat(windows, views)
        if self.augmentation.is_off:
            return plain_features(self.front_end, self.data, repeated)
        drawn = [self._draw(views, generator) for generator in generators]
        return self._changed(repeated, joined(drawn))

    def _draw(self, windows: int, generator: torch.Generator) -> Changes:
        config = self.front_end.config
        return draw_changes(
            self.augmentation,
            windows,
            self.noises,
            hop_seconds=config.hop_seconds,
            features=config.features,
            generator=generator,
        )

    def _changed(self, windows: Windows, changes: Changes) -> Tensor:
        energies = torch.from_numpy(self.data.energies[windows])
        return mask_features(self.front_end.normalise(change_energies(energies, changes)), changes)


def noises_for(
    front_end: BatchFrontEnd,
    data: FeatureSet,
    augmentation: Augmentation,
    noise: FeatureSet | None,
    seed: int,
) -> Tensor:
    """Energies (N, T, bands) of the noise to mix into `data`: recorded if there is any, else synthetic.

    Args:
        seed: of synthetic noise.

    Raises:
        TrainingError: FA-7006, the recorded noise was not read for the same task.
    """
    frames, bands = data.energies.shape[1:]
    if augmentation.noise_probability == 0:
        return torch.zeros(1).expand(1, frames, bands)
    if noise is None or len(noise.labels) == 0:
        return _synthetic(front_end.config, frames, seed)
    if noise.energies.shape[1:] != (frames, bands):
        raise TrainingError(
            "FA-7006",
            f"The noise has {noise.energies.shape[1:]} frames and bands, the clips have {(frames, bands)}.",
            "Read clips and noise with the same front end and clip_seconds.",
        )
    return torch.from_numpy(np.array(noise.energies))


@lru_cache(maxsize=1)
def _synthetic(config: FrontEnd, frames: int, seed: int) -> Tensor:
    """Kept for the next training with this seed: to make it takes as long as to train on seventy windows."""
    return synthetic_noise(BatchFrontEnd(config), frames, torch.Generator().manual_seed(seed))
