"""What one epsilon protects, and how much of it takes part in a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from common.data.features import FeatureSet
from common.errors import TrainingError
from common.privacy.secure_random import SecureRandom
from common.privacy.units import units_of
from common.protocol.unit import Unit

MakeToy = Callable[..., FeatureSet]


def with_owners(data: FeatureSet, owners: list[int]) -> FeatureSet:
    """Clip i belongs to the speaker and the recording owners[i]."""
    of_windows = np.array(owners)[data.clip_index]
    return replace(data, speakers=of_windows, recordings=of_windows)


def test_each_window_is_in_one_unit(make_toy: MakeToy) -> None:
    data = with_owners(make_toy(6, windows=2), [3, 1, 3, 3, 0, 1])
    for unit, sizes in (("clip", [1] * 6), ("recording", [1, 2, 3]), ("speaker", [1, 2, 3])):
        units = units_of(data, unit)  # type: ignore[arg-type]
        assert sorted(len(clips) for clips in units.clips) == sizes
        windows = np.concatenate([window for clips in units.clips for window in clips])
        assert sorted(windows) == list(range(12))
        for clips in units.clips:
            assert all(len(set(data.clip_index[windows])) == 1 for windows in clips)


@pytest.mark.parametrize("unit", ["recording", "speaker"])
def test_unknown_owners_are_refused(unit: Unit, make_toy: MakeToy) -> None:
    toy = make_toy(4, windows=2)
    with pytest.raises(TrainingError, match=rf"FA-7021.*of 4 clips the {unit}"):
        units_of(toy, unit)
    with pytest.raises(TrainingError, match=rf"FA-7021.*of 1 clips the {unit}"):
        units_of(with_owners(toy, [0, -1, 1, 1]), unit)


def test_a_unit_brings_some_of_its_clips_and_one_window_of_each(make_toy: MakeToy) -> None:
    units, random = units_of(with_owners(make_toy(5, windows=3), [0, 0, 0, 0, 1]), "speaker"), SecureRandom()
    seen = np.zeros(15, int)
    for _ in range(300):
        drawn = units.draw(0, 2, random)
        assert len(drawn) == len({int(window) // 3 for window in drawn}) == 2
        seen[drawn] += 1
    assert (seen[:12] > 20).all()  # 50 expected of each
    assert seen[12:].sum() == 0
    assert len(units.draw(1, 2, random)) == 1
