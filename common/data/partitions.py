"""Sharing clips out to virtual devices: none has none and, but for `shared`, every clip is on exactly one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from common.data.clips import Clips
from common.data.splits import together
from common.errors import DataError


def by_speaker(clips: Clips, devices: int, rng: np.random.Generator) -> list[Clips]:
    """Give each device whole speakers (whole recordings where no speaker is known), with like clip counts.

    Speakers go, those with the most clips first, each to the device with the fewest so far (the longest
    processing time rule, Graham 1969: the largest device has at most 4/3 of the least possible count).

    Raises:
        DataError: FA-2010 more devices than speakers, FA-2011 a clip of which neither is known.
    """
    sets = _speakers(clips)
    _check_count(devices, len(sets), "speakers or recordings")
    shuffled = [sets[index] for index in rng.permutation(len(sets))]
    shares: list[list[int]] = [[] for _ in range(devices)]
    for members in sorted(shuffled, key=len, reverse=True):
        min(shares, key=len).extend(members)
    return _select(clips, shares)


def by_dirichlet(clips: Clips, devices: int, alpha: float, rng: np.random.Generator) -> list[Clips]:
    """Give each device equally many clips in its own mix of labels (Hsu et al. 2019, arXiv:1909.06335).

    A device's mix is drawn from Dirichlet(alpha * overall mix): a large `alpha` makes devices alike, a small
    one gives each few labels. Devices take clips in turn, so what is left at the end spoils no one's mix more
    than another's. Speakers are not kept together.

    Args:
        alpha: concentration, above 0.

    Raises:
        DataError: FA-2010, more devices than clips.
    """
    if not alpha > 0:
        raise ValueError(f"alpha must be above 0, not {alpha}")
    _check_count(devices, len(clips), "clips")
    place = {label: position for position, label in enumerate(clips.labels)}
    piles: list[list[int]] = [[] for _ in place]
    for index in rng.permutation(len(clips)):
        piles[place[clips[int(index)].label]].append(int(index))
    left = np.array([len(pile) for pile in piles], dtype=np.float64)
    mixes = rng.dirichlet(alpha * left / left.sum(), size=devices)
    shares: list[list[int]] = [[] for _ in range(devices)]
    for turn in range(len(clips)):
        device = turn % devices
        weights = np.where(left > 0, mixes[device], 0.0)
        # A device whose labels are all gone takes from what is left.
        weights = weights if weights.sum() > 0 else left
        label = int(rng.choice(len(piles), p=weights / weights.sum()))
        shares[device].append(piles[label].pop())
        left[label] -= 1
    return _select(clips, shares)


def iid(clips: Clips, devices: int, rng: np.random.Generator) -> list[Clips]:
    """Give each device equally many clips at random (counts differ by one at most).

    Raises:
        DataError: FA-2010, more devices than clips.
    """
    _check_count(devices, len(clips), "clips")
    return _select(clips, [part.tolist() for part in np.array_split(rng.permutation(len(clips)), devices)])


def shared(clips: Clips, devices: int, rng: np.random.Generator) -> list[Clips]:
    """Give each device all clips of one speaker (recording, where no speaker is known), who may be on many.

    Speakers come in a random order, again and again, so they are on equally many devices (by one). For
    thousands of devices over few voices; `thinned` makes devices of one speaker differ.

    Raises:
        DataError: FA-2011, a clip of which neither is known.
    """
    sets = _speakers(clips)
    shares = _select(clips, [sets[index] for index in rng.permutation(len(sets))])
    return [shares[device % len(shares)] for device in range(devices)]


def thinned(shares: Sequence[Clips], most: int | None, skew: float, rng: np.random.Generator) -> list[Clips]:
    """Take clips from devices at random, until none has more than `most` and their numbers differ by `skew`.

    A device keeps the part exp(-skew |z|), z standard normal, of what it may have, and one clip at least:
    a log-normal that is folded at 1, so that nobody needs more clips than there are.

    Args:
        most: clips of a device; None for any number.
        skew: sigma of the log-normal, 0 or more.
    """
    kept = []
    for share, part in zip(shares, np.exp(-skew * np.abs(rng.standard_normal(len(shares)))), strict=True):
        size = len(share) if most is None else min(most, len(share))
        size = max(1, round(size * part))
        kept.append(share.select(sorted(rng.permutation(len(share))[:size].tolist())))
    return kept


def _speakers(clips: Clips) -> list[list[int]]:
    for clip in clips:
        if clip.speaker is None and clip.group is None:
            raise DataError(
                "FA-2011",
                f"Neither speaker nor recording of {clip.path} is known.",
                "Name a speaker for each clip, or share the clips out in another way.",
            )
    return together(clips)


def _check_count(devices: int, available: int, what: str) -> None:
    if devices < 1:
        raise ValueError(f"there must be at least one device, not {devices}")
    if devices > available:
        raise DataError(
            "FA-2010",
            f"{available} {what} are too few for {devices} devices.",
            f"Use at most {available} devices, or share the clips out in another way.",
        )


def _select(clips: Clips, shares: Sequence[Sequence[int]]) -> list[Clips]:
    return [clips.select(sorted(share)) for share in shares]
