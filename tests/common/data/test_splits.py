"""Fair splits: nobody and no recording on both sides."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.data.clips import Clip, Clips
from common.data.splits import hold_out, holdout_indices, split_by_group, together
from common.errors import DataError

NAMES = st.none() | st.sampled_from("abcdef")


@st.composite
def collections(draw: st.DrawFn) -> Clips:
    """Clips with any mix of known and unknown speakers and recordings."""
    facts = draw(st.lists(st.tuples(st.sampled_from("xyz"), NAMES, NAMES), min_size=1, max_size=40))
    return Clips(
        Clip(Path(f"{label}/{n}.wav"), label, speaker, group)
        for n, (label, speaker, group) in enumerate(facts)
    )


def names(clips: Clips) -> set[tuple[str, str]]:
    speakers = {("speaker", clip.speaker) for clip in clips if clip.speaker is not None}
    return speakers | {("group", clip.group) for clip in clips if clip.group is not None}


def speakers(**counts: int) -> Clips:
    """Collection with so many clips of each speaker."""
    return Clips(
        Clip(Path(f"yes/{name}_{n}.wav"), "yes", name, name)
        for name, count in counts.items()
        for n in range(count)
    )


@given(collections())
def test_sets_of_clips_share_no_name_and_cannot_be_smaller(clips: Clips) -> None:
    sets = together(clips)
    assert sorted(index for members in sets for index in members) == list(range(len(clips)))
    counts = Counter(name for members in sets for name in names(clips.select(members)))
    assert set(counts.values()) <= {1}
    for members in sets:
        reached, seen = {members[0]}, 0
        while len(reached) > seen:
            seen = len(reached)
            known = names(clips.select(sorted(reached)))
            reached |= {index for index in members if names(clips[index : index + 1]) & known}
        assert reached == set(members)


@given(collections(), st.floats(0.05, 0.95), st.integers(0, 2**32))
def test_no_speaker_and_no_recording_is_on_both_sides(clips: Clips, share: float, seed: int) -> None:
    if len(together(clips)) < 2:
        with pytest.raises(DataError, match="FA-2008"):
            split_by_group(clips, share, np.random.default_rng(seed))
        return
    learned, tested = split_by_group(clips, share, np.random.default_rng(seed))
    assert not names(learned) & names(tested)
    assert set(learned) | set(tested) == set(clips)
    assert len(learned) + len(tested) == len(clips)
    assert learned
    assert tested


def test_the_share_is_met_when_groups_allow_it() -> None:
    clips = speakers(**{f"s{n}": 5 for n in range(20)})
    learned, tested = split_by_group(clips, 0.2, np.random.default_rng(1))
    assert (len(learned), len(tested)) == (80, 20)


def test_a_split_follows_from_its_generator_and_varies_with_it() -> None:
    clips = speakers(**{f"s{n}": 3 for n in range(12)})
    first, again, other = (split_by_group(clips, 0.3, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_clips_without_names_are_divided_one_by_one() -> None:
    clips = Clips(Clip(Path(f"{n}.wav"), "yes") for n in range(10))
    learned, tested = split_by_group(clips, 0.3, np.random.default_rng(0))
    assert (len(learned), len(tested)) == (7, 3)


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0, float("nan")])
def test_a_share_that_leaves_one_side_empty_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        split_by_group(speakers(a=2, b=2), share, np.random.default_rng(0))


def test_speakers_and_folds_are_held_out_by_name() -> None:
    clips = speakers(a=2, b=3, c=1)
    learned, tested = hold_out(clips, ["b"])
    assert (learned.speakers, tested.speakers) == (("a", "c"), ("b",))
    folded = Clips(Clip(Path(f"{n}.wav"), "rain", group=str(n), fold=str(n % 3)) for n in range(9))
    learned, tested = hold_out(folded, {"0"}, by="fold")
    assert {clip.fold for clip in learned} == {"1", "2"}
    assert len(tested) == 3


def test_holding_out_somebody_unknown_is_an_error() -> None:
    with pytest.raises(DataError, match=r"FA-2009.*'24'"):
        hold_out(speakers(a=1, b=1), ["a", "24"])


@given(
    st.floats(0, 0.5),
    st.sets(st.integers(0, 10_000), max_size=60),
    st.sets(st.integers(0, 10_000), max_size=60),
)
def test_a_clip_stays_on_its_side_when_others_come(share: float, old: set[int], new: set[int]) -> None:
    def held(numbers: set[int], folder: str) -> set[str]:
        clips = Clips(Clip(Path(f"{folder}/yes/{n}.flac"), "yes") for n in sorted(numbers))
        return {clips[index].path.name for index in holdout_indices(clips, share)}

    before, after = held(old, "here"), held(old | new, "moved")
    assert before == {name for name in after if int(Path(name).stem) in old}


def test_about_the_share_of_clips_is_kept_for_evaluation() -> None:
    clips = Clips(Clip(Path(f"{label}/{n}.flac"), label) for label in ("yes", "no") for n in range(2000))
    kept = holdout_indices(clips, 0.1)
    # Four standard deviations of a binomial with 4000 draws are 76.
    assert abs(len(kept) - 400) < 76
    assert holdout_indices(clips, 0.0) == []
    assert {clips[index].path.name for index in kept if clips[index].label == "yes"} != {
        clips[index].path.name for index in kept if clips[index].label == "no"
    }
