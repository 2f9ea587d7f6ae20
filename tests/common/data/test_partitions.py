"""Sharing clips out: every clip on exactly one device, and no device without."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, kstest

from common.data.clips import Clip, Clips
from common.data.partitions import by_dirichlet, by_speaker, iid, shared, thinned
from common.data.splits import hold_out
from common.errors import DataError

Partition = Callable[[Clips, int, np.random.Generator], list[Clips]]
SHARES: list[Partition] = [
    by_speaker,
    iid,
    lambda clips, devices, rng: by_dirichlet(clips, devices, 0.01, rng),
    lambda clips, devices, rng: by_dirichlet(clips, devices, 0.5, rng),
    lambda clips, devices, rng: by_dirichlet(clips, devices, 1000.0, rng),
]


def spoken(counts: list[int], labels: str = "xyz") -> Clips:
    """Collection in which speaker n has `counts[n]` clips, their labels in turn."""
    return Clips(
        Clip(Path(f"{speaker}_{n}.wav"), labels[n % len(labels)], f"s{speaker}", f"s{speaker}")
        for speaker, count in enumerate(counts)
        for n in range(count)
    )


@pytest.mark.parametrize("share", SHARES)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=12), st.integers(0, 2**32), st.data())
def test_every_clip_is_on_one_device_and_no_device_is_empty(
    share: Partition, counts: list[int], seed: int, data: st.DataObject
) -> None:
    clips = spoken(counts)
    devices = data.draw(st.integers(1, len(counts) if share is by_speaker else len(clips)))
    parts = share(clips, devices, np.random.default_rng(seed))
    assert len(parts) == devices
    assert Counter(clip for part in parts for clip in part) == Counter(clips)
    assert all(parts)
    assert parts == share(clips, devices, np.random.default_rng(seed))


@given(st.lists(st.integers(1, 30), min_size=1, max_size=15), st.integers(0, 2**32), st.data())
def test_a_speaker_is_on_one_device_and_devices_are_balanced(
    counts: list[int], seed: int, data: st.DataObject
) -> None:
    devices = data.draw(st.integers(1, len(counts)))
    parts = by_speaker(spoken(counts), devices, np.random.default_rng(seed))
    assert sum(len(part.speakers) for part in parts) == len(counts)
    # A device had the fewest clips when its last speaker came, so it leads by that speaker's clips at most.
    assert max(map(len, parts)) - min(map(len, parts)) <= max(counts)


@pytest.mark.parametrize("share", SHARES)
def test_another_seed_shares_out_in_another_way(share: Partition) -> None:
    clips = spoken([4] * 12)
    assert share(clips, 4, np.random.default_rng(1)) != share(clips, 4, np.random.default_rng(2))


@pytest.mark.parametrize("share", SHARES[1:])
def test_counts_differ_by_one_at_most(share: Partition) -> None:
    sizes = [len(part) for part in share(spoken([10, 7, 6]), 5, np.random.default_rng(0))]
    assert max(sizes) - min(sizes) <= 1


def test_a_small_alpha_gives_few_labels_and_a_large_one_the_overall_mix() -> None:
    clips = spoken([100] * 10, "abcdefghij")

    def largest_share(alpha: float) -> float:
        parts = by_dirichlet(clips, 20, alpha, np.random.default_rng(3))
        return float(
            np.mean([max(Counter(clip.label for clip in part).values()) / len(part) for part in parts])
        )

    shares = [largest_share(alpha) for alpha in (0.01, 1.0, 100.0, 1e4)]
    assert shares == sorted(shares, reverse=True)
    # One label would be 1 if labels did not run out; the overall mix is about 0.18 by chance in 50 clips.
    assert shares[0] > 0.6
    assert shares[-1] < 0.22


@given(st.lists(st.integers(1, 9), min_size=1, max_size=9), st.integers(1, 40), st.integers(0, 2**32))
def test_shared_devices_have_all_of_one_speaker_and_speakers_equally_many_devices(
    counts: list[int], devices: int, seed: int
) -> None:
    parts = shared(spoken(counts), devices, np.random.default_rng(seed))
    assert len(parts) == devices
    owners = Counter(part.speakers for part in parts)
    assert all(len(part) == counts[int(part.speakers[0][1:])] for part in parts)
    assert all(len(speakers) == 1 for speakers in owners)
    assert len(owners) == min(devices, len(counts))
    assert max(owners.values()) - min(owners.values()) <= 1
    assert parts == shared(spoken(counts), devices, np.random.default_rng(seed))


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=12),
    st.none() | st.integers(1, 40),
    st.floats(0, 5),
    st.integers(0, 2**32),
)
def test_thinned_devices_keep_some_of_their_own_clips_in_order(
    counts: list[int], most: int | None, skew: float, seed: int
) -> None:
    shares = by_speaker(spoken(counts), len(counts), np.random.default_rng(seed))
    parts = thinned(shares, most, skew, np.random.default_rng(seed))
    for part, share in zip(parts, shares, strict=True):
        assert 1 <= len(part) <= min(most or len(share), len(share))
        assert part == share.filter(lambda clip, part=part: clip in set(part))
    if skew == 0:
        assert [len(part) for part in parts] == [min(most or len(share), len(share)) for share in shares]
    assert parts == thinned(shares, most, skew, np.random.default_rng(seed))


def test_what_is_taken_away_is_drawn_and_not_the_end() -> None:
    shares = [spoken([40])] * 200
    kept = Counter(clip for part in thinned(shares, 10, 0.0, np.random.default_rng(0)) for clip in part)
    low, high = binom.ppf([1e-7, 1 - 1e-7], 200, 10 / 40)
    assert len(kept) == 40
    assert all(low <= count <= high for count in kept.values())


@pytest.mark.parametrize("skew", [0.3, 1.0])
def test_the_parts_kept_are_log_normal_folded_at_one(skew: float) -> None:
    shares = [spoken([1000])] * 400
    parts = np.array([len(part) for part in thinned(shares, None, skew, np.random.default_rng(5))]) / 1000
    assert kstest(-np.log(parts) / skew, "halfnorm").pvalue > 1e-3


def test_more_devices_than_there_is_to_share_is_an_error() -> None:
    clips, rng = spoken([3, 3]), np.random.default_rng(0)
    with pytest.raises(DataError, match=r"FA-2010: 2 speakers.*3 devices"):
        by_speaker(clips, 3, rng)
    with pytest.raises(DataError, match=r"FA-2010: 6 clips"):
        iid(clips, 7, rng)
    with pytest.raises(DataError, match="FA-2010"):
        by_dirichlet(clips, 7, 1.0, rng)


def test_senseless_numbers_are_refused() -> None:
    clips, rng = spoken([3, 3]), np.random.default_rng(0)
    with pytest.raises(ValueError, match="device"):
        iid(clips, 0, rng)
    with pytest.raises(ValueError, match="alpha"):
        by_dirichlet(clips, 2, 0.0, rng)


def test_clips_of_nobody_cannot_be_shared_by_speaker() -> None:
    clips = Clips([Clip(Path("a.wav"), "x", "s", "s"), Clip(Path("b.wav"), "x")])
    for share in (by_speaker, shared):
        with pytest.raises(DataError, match="FA-2011"):
            share(clips, 1, np.random.default_rng(0))


def test_real_speakers_and_real_recordings(shared_data: Path) -> None:
    spoken_clips = Clips.load(shared_data / "arabic_speech_commands")
    parts = by_speaker(spoken_clips, 6, np.random.default_rng(0))
    assert [len(part) for part in parts] == [180] * 6
    heard, _ = hold_out(Clips.load(shared_data / "esc10"), ["4"], by="fold")
    parts = by_speaker(heard, 10, np.random.default_rng(0))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    recordings = [{clip.group for clip in part} for part in parts]
    assert sum(map(len, recordings)) == len(set().union(*recordings))
