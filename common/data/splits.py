"""Dividing clips into a part to learn from and a part to test on, so that the test is fair."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Literal

import numpy as np

from common.data.clips import Clips
from common.errors import DataError


def together(clips: Clips) -> list[list[int]]:
    """Indices of `clips`, in the smallest sets such that no speaker and no group is in two of them.

    A clip of which neither is known is a set of its own. Sets are in order of their first clip.
    """
    parent = list(range(len(clips)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = index = parent[parent[index]]
        return index

    first: dict[tuple[str, str], int] = {}
    for index, clip in enumerate(clips):
        for kind, name in (("speaker", clip.speaker), ("group", clip.group)):
            if name is not None:
                parent[root(index)] = root(first.setdefault((kind, name), index))
    sets: dict[int, list[int]] = {}
    for index in range(len(clips)):
        sets.setdefault(root(index), []).append(index)
    return list(sets.values())


def split_by_group(clips: Clips, share: float, rng: np.random.Generator) -> tuple[Clips, Clips]:
    """Divide `clips` at random into a part to learn from and a part to test on, both in their old order.

    No speaker and no recording is in both, so the second part holds about `share` of the clips, as near as
    whole groups drawn in a random order come, and neither part is empty.

    Args:
        share: of the clips, for the second part; between 0 and 1, exclusive.

    Raises:
        DataError: FA-2008, all clips belong together.
    """
    if not 0 < share < 1:
        raise ValueError(f"share must lie between 0 and 1, not {share}")
    sets = together(clips)
    if len(sets) < 2:
        raise DataError(
            "FA-2008",
            f"{len(clips)} clips of one speaker or recording cannot be divided fairly.",
            "Add clips of another speaker or recording.",
        )
    order = [sets[index] for index in rng.permutation(len(sets))]
    wanted, tested = share * len(clips), set(order[0])
    for members in order[1:-1]:
        if abs(len(tested) + len(members) - wanted) < abs(len(tested) - wanted):
            tested.update(members)
    return _divide(clips, tested)


def hold_out(
    clips: Clips, names: Collection[str], by: Literal["speaker", "group", "fold"] = "speaker"
) -> tuple[Clips, Clips]:
    """Divide `clips` into those whose speaker (group, fold) is not among `names`, and those whose is.

    Raises:
        DataError: FA-2009, a name is not there.
    """
    known = {getattr(clip, by) for clip in clips}
    unknown = sorted(set(names) - known)
    if unknown:
        raise DataError(
            "FA-2009", f"No clip has the {by} {unknown[0]!r}.", f"Name a {by} that is in the collection."
        )
    return _divide(clips, {index for index, clip in enumerate(clips) if getattr(clip, by) in names})


def holdout_indices(clips: Clips, share: float) -> list[int]:
    """Indices of the clips a device keeps for evaluation, about `share` of them.

    Decided for each clip by a hash of its label and file name alone: a clip stays on its side when others
    come or go, so none is ever trained on after it was tested on.
    """
    return [index for index, clip in enumerate(clips) if _uniform(f"{clip.label}/{clip.path.name}") < share]


def _uniform(text: str) -> float:
    """A number in [0, 1) that looks uniform over texts."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]) / 2**48


def _divide(clips: Clips, second: Collection[int]) -> tuple[Clips, Clips]:
    return (
        clips.select(index for index in range(len(clips)) if index not in second),
        clips.select(sorted(second)),
    )
