"""Windows of a data set as features, changed at random or as they are, and with what is made of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from common.audio.batch import BatchFrontEnd
from common.data.features import FeatureSet, Windows
from common.protocol.plan import Augmentation
from common.training.augment import Changes, change_energies, draw_changes, joined, mask_features
from common.training.negatives import draw_making, make_negatives


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
class Negatives:
    """The windows without a word that are made of each window, whenever it is used.

    Args:
        label: theirs.
        each: how many.
        sounds: energies (N, T, bands) that some of them are.
    """

    label: int
    each: int
    sounds: Tensor


@dataclass(frozen=True)
class Augmented:
    """A data set seen through random changes.

    Args:
        noises: energies (N, C + T, bands) to mix in, see `noises_for`.
        hears_before: whether the model is to hear the C frames before a window, too.
    """

    front_end: BatchFrontEnd
    data: FeatureSet
    augmentation: Augmentation
    noises: Tensor
    negatives: Negatives | None = None
    hears_before: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Frames and features of what a model is given of a window."""
        frames = self.noises.shape[1] if self.hears_before else self.data.energies.shape[1]
        return frames, self.front_end.config.features

    @torch.no_grad()
    def batch(self, windows: Windows, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Features (N, T, F) and labels (N,) of `windows`, changed as `generator` says, and after them of
        what is made of each of them and some other window of the data."""
        labels, negatives = labels_of(self.data, windows), self.negatives
        if negatives is None:
            if self.augmentation.is_off:
                return plain_features(self.front_end, self.data, windows), labels
            return self._changed(self._energies(windows), self._draw(len(windows), generator)), labels
        own = np.tile(windows, negatives.each)
        other = torch.randint(len(self.data), (len(own),), generator=generator).numpy()
        made = self._made(negatives, self._energies(own), self._energies(other), generator)
        energies = torch.cat((self._energies(windows), made))
        labels = torch.cat((labels, torch.full((len(own),), negatives.label)))
        return self._changed(energies, self._draw(len(energies), generator)), labels

    @torch.no_grad()
    def views(
        self, windows: Windows, views: int, generators: Iterable[torch.Generator]
    ) -> tuple[Tensor, Tensor]:
        """Features (B * V, T, F) and labels (B * V,) of the V views of each of `windows`, those of one in a
        row: `views` of itself, and as many times what is made of it and of nothing else, all as its own
        generator says."""
        labels, negatives = labels_of(self.data, windows).unsqueeze(1), self.negatives
        if negatives is None:
            repeated = np.repeat(windows, views)
            if self.augmentation.is_off:
                features = plain_features(self.front_end, self.data, repeated)
            else:
                drawn = [self._draw(views, generator) for generator in generators]
                features = self._changed(self._energies(repeated), joined(drawn))
            return features, labels.expand(-1, views).flatten()
        more = views * negatives.each
        energies, changes = [], []
        for window, generator in zip(windows, generators, strict=True):
            own = self._energies(np.repeat(window, more))
            energies += [self._energies(np.repeat(window, views)), self._made(negatives, own, own, generator)]
            changes.append(self._draw(views + more, generator))
        others = torch.full((len(windows), more), negatives.label)
        features = self._changed(torch.cat(energies), joined(changes))
        return features, torch.cat((labels.expand(-1, views), others), dim=1).flatten()

    def _energies(self, windows: Windows) -> Tensor:
        return torch.from_numpy(self.data.energies[windows])

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

    def _made(self, negatives: Negatives, own: Tensor, other: Tensor, generator: torch.Generator) -> Tensor:
        hop_seconds, sounds = self.front_end.config.hop_seconds, negatives.sounds
        making = draw_making(len(own), own.shape[1], len(sounds), hop_seconds, generator)
        return make_negatives(own, other, sounds, making)

    def _changed(self, energies: Tensor, changes: Changes) -> Tensor:
        features = mask_features(self.front_end.normalise(change_energies(energies, changes)), changes)
        return features[:, -self.shape[0] :]
