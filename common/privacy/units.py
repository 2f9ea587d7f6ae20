"""Whose gradients are clipped together: the unit of privacy, and how much of one takes part in a step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.data.features import FeatureSet, Windows
from common.errors import TrainingError
from common.privacy.secure_random import SecureRandom
from common.protocol.unit import Unit


@dataclass(frozen=True)
class Units:
    """The units of a data set.

    Args:
        clips: of each unit, the windows of each of its clips.
    """

    clips: list[list[Windows]]

    def __len__(self) -> int:
        return len(self.clips)

    def draw(self, unit: int, most: int, random: SecureRandom) -> Windows:
        """One window of each of at most `most` clips of `unit`, all at random; no clip twice."""
        clips = self.clips[unit]
        order = np.argsort(random.uniform(len(clips)))[:most]
        places = random.uniform(len(order))
        return np.array(
            [clips[clip][int(place * len(clips[clip]))] for clip, place in zip(order, places, strict=True)]
        )


def units_of(data: FeatureSet, unit: Unit) -> Units:
    """The clips of `data` by what one epsilon protects.

    Raises:
        TrainingError: FA-7021, for some clip that is not known.
    """
    owners = {"clip": data.clip_index, "recording": data.recordings, "speaker": data.speakers}[unit]
    if owners is None or (owners < 0).any():
        unknown = len(np.unique(data.clip_index if owners is None else data.clip_index[owners < 0]))
        raise TrainingError(
            "FA-7021",
            f"The plan protects each {unit}, but of {unknown} clips the {unit} is not known.",
            f"Give the clips their {unit} in a manifest, or ask for privacy.unit = 'clip'.",
        )
    clips: dict[int, list[Windows]] = {}
    order = np.argsort(data.clip_index, kind="stable")
    for windows in np.split(order, np.flatnonzero(np.diff(data.clip_index[order])) + 1):
        clips.setdefault(int(owners[windows[0]]), []).append(windows)
    return Units(list(clips.values()))
