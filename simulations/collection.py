"""The clips of a scenario, and who has them: devices, the coordinator, or nobody."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from common.data.clips import Clips
from common.data.splits import hold_out
from common.errors import DataError
from common.results import Speakers
from simulations.draws import draws
from simulations.scenario import DataChoice

if TYPE_CHECKING:
    from common.data.synthetic.corpus import Kind

LABELS: dict[Kind, int] = {"words": 10, "textures": 8}
"""Labels of a synthetic corpus; one of words has background besides."""

CORPUS_SEED = 0
"""Of every synthetic corpus: like a public data set it is one and the same for all seeds of a simulation."""


@dataclass(frozen=True)
class Roles:
    """Clips by who has them; no speaker (group, fold) is in two of the three."""

    training: Clips
    validation: Clips
    unseen: Clips
    names: Speakers


def read_collection(choice: DataChoice, cache: Path) -> Clips:
    """Every clip that the scenario is about, each once.

    Args:
        cache: folder where a synthetic corpus is made, or was; nobody else may use it meanwhile.

    Raises:
        DataError: FA-2001..FA-2006 as `Clips.load`, FA-2053 the clips do not have one of the labels.
        StorageError: FA-8001.
    """
    clips = Clips(dict.fromkeys(Clips.load(choice.path or _corpus(choice, cache))))
    if choice.labels is None:
        return clips
    for label in choice.labels:
        if label not in clips.labels:
            near = difflib.get_close_matches(label, clips.labels, n=1) or clips.labels[:10]
            raise DataError(
                "FA-2053", f"No clip has the label '{label}'.", f"The clips have: {', '.join(near)}."
            )
    return clips.filter(lambda clip: clip.label in set(choice.labels or ()))


def divide(clips: Clips, choice: DataChoice, seed: int) -> Roles:
    """Who is unseen and who validates is named, or drawn from `seed`; everybody else trains.

    Raises:
        DataError: FA-2009 a name is not there, FA-2050 a clip of unknown speaker (group, fold), FA-2051 too
            few of them, FA-2052 one of them has two roles.
    """
    by = choice.split
    for clip in clips:
        if getattr(clip, by) is None:
            raise DataError(
                "FA-2050",
                f"The {by} of {clip.path} is not known, so nobody can tell who has heard it.",
                f"Name a {by} for each clip, or set data.split to what is named.",
            )
    names = sorted({getattr(clip, by) for clip in clips})
    drawn = [names[index] for index in draws(seed, "roles").permutation(len(names))]
    reserved = () if isinstance(choice.validation, int) else choice.validation
    unseen = _chosen(choice.unseen, drawn, reserved)
    validating = _chosen(choice.validation, drawn, unseen)
    for name in set(unseen) & set(validating):
        raise DataError(
            "FA-2052", f"The {by} '{name}' is to validate and to be unseen.", "Take it out of one of the two."
        )
    rest, tested = hold_out(clips, unseen, by)
    training, validation = hold_out(rest, validating, by)
    if not training or not tested:
        raise DataError(
            "FA-2051",
            f"With {len(unseen)} unseen and {len(validating)} to validate on, {len(names)} are too few: "
            f"somebody must be unseen, and somebody must train.",
            f"Lower data.unseen or data.validation, or add a {by}.",
        )
    left = set(names) - set(unseen) - set(validating)
    return Roles(
        training,
        validation,
        tested,
        Speakers(
            train=tuple(sorted(left)),
            validation=tuple(sorted(validating)),
            unseen=tuple(sorted(unseen)),
        ),
    )


def _chosen(choice: int | tuple[str, ...], drawn: Sequence[str], taken: Collection[str]) -> tuple[str, ...]:
    if not isinstance(choice, int):
        return choice
    return tuple(name for name in drawn if name not in taken)[:choice]


def _corpus(choice: DataChoice, cache: Path) -> Path:
    # With scipy, which takes most of a second to import.
    from common.data.synthetic.corpus import kept_corpus

    return kept_corpus(
        cache,
        kind=choice.synthetic,
        voices=choice.voices,
        labels=LABELS[choice.synthetic],
        takes=choice.takes,
        seed=CORPUS_SEED,
    )
