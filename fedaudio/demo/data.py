"""Who speaks on which device, who validates, and who is kept for the test on voices never heard."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile

from common.audio.front_end import SAMPLE_RATE
from common.audio.reading import read_audio
from common.data.clips import Clip, Clips
from common.data.partitions import by_dirichlet, by_speaker, iid
from common.data.splits import hold_out
from common.data.synthetic.corpus import Kind, make_corpus
from common.data.synthetic.streams import make_stream
from common.errors import AudioError, ConfigError, DataError
from common.results import Speakers

VOICES, TAKES = 26, 8
"""Of a synthetic corpus: 17 voices (or sites) to learn from, 4 to validate on, 5 unseen."""

LABELS: Mapping[Kind, int] = {"words": 10, "textures": 8}

STREAM_SECONDS = 60.0


@dataclass(frozen=True)
class DemoData:
    """Clips by their part in the demo; no speaker (or fold) has two parts.

    Attributes:
        left_out: (file, reason) of each clip that cannot be read; these have no part.
    """

    devices: list[Clips]
    validation: Clips
    unseen: Clips
    speakers: Speakers
    clip_seconds: float
    left_out: tuple[tuple[str, str], ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels there are to learn."""
        return Clips(clip for share in self.devices for clip in share).labels


def prepare(
    source: Path | Kind, work: Path, *, devices: int, partition: str, unseen: Collection[str], seed: int
) -> DemoData:
    """Divide the clips in `source`, or a synthetic corpus made in `work`, over `devices` and the rest.

    A fifth of the speakers (of the folds, where those are what is known) is unseen, drawn from `seed` unless
    named in `unseen`. Only a synthetic corpus is large enough to keep validation speakers too.

    Args:
        source: a collection, or the kind of corpus to make.

    Raises:
        DataError: FA-2007 no clip can be read, FA-2009 an unknown name in `unseen`, FA-2010 more devices than
            speakers, FA-2012 too few.
    """
    folder = source if isinstance(source, Path) else work / "corpus"
    if not isinstance(source, Path):
        make_corpus(folder, kind=source, voices=VOICES, labels=LABELS[source], takes=TAKES, seed=seed)
    clips, lengths, left_out = _readable(Clips.load(folder))
    by: Literal["speaker", "fold"] = "speaker" if clips.speakers else "fold"
    names = sorted({name for clip in clips if (name := _name(clip, by))})
    if len(names) < 2:
        raise DataError(
            "FA-2012",
            "The clips name fewer than two speakers or folds.",
            "Add a `speaker` column to the manifest.",
        )
    drawn = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    kept = list(unseen) or drawn[: max(1, math.floor(len(names) * 0.23))]
    others = [name for name in drawn if name not in kept]
    validating = [] if isinstance(source, Path) else others[:4]
    rest, unseen_clips = hold_out(clips, kept, by)
    training, validation = hold_out(rest, validating, by) if validating else (rest, Clips())
    return DemoData(
        _share_out(training, devices, partition, np.random.default_rng(seed)),
        validation,
        unseen_clips,
        Speakers(
            train=tuple(sorted(set(others) - set(validating))),
            validation=tuple(sorted(validating)),
            unseen=tuple(sorted(kept)),
        ),
        _usual_seconds(lengths),
        left_out,
    )


def write_stream(clips: Clips, path: Path, seed: int) -> None:
    """A minute of continuous sound made of `clips`, for a listener to hear (16-bit WAV)."""
    rng = np.random.default_rng(seed)
    some: Sequence[int] = rng.permutation(len(clips))[:40].tolist()
    sounds = [(read_audio(clips[index].path), clips[index].label) for index in some]
    samples, _ = make_stream(sounds, STREAM_SECONDS, rng)
    soundfile.write(path, samples, SAMPLE_RATE, subtype="PCM_16")


def _share_out(clips: Clips, devices: int, partition: str, rng: np.random.Generator) -> list[Clips]:
    match partition.split(":"):
        case ["speaker"]:
            return by_speaker(clips, devices, rng)
        case ["iid"]:
            return iid(clips, devices, rng)
        case ["dirichlet", alpha] if re.fullmatch(r"\d*\.?\d+", alpha) and float(alpha) > 0:
            return by_dirichlet(clips, devices, float(alpha), rng)
    raise ConfigError(
        "FA-6004", f"'{partition}' is no way to share clips out.", "Use speaker, iid, or dirichlet:0.5."
    )


def _name(clip: Clip, by: str) -> str | None:
    return clip.speaker if by == "speaker" else clip.fold


def _readable(clips: Clips) -> tuple[Clips, list[float], tuple[tuple[str, str], ...]]:
    """The clips that can be read, their lengths in seconds, and (file, reason) for each of the others.

    They are read to the end, for only then is a file known to be whole.
    """
    whole: list[Clip] = []
    lengths: list[float] = []
    left_out: list[tuple[str, str]] = []
    for clip in clips:
        try:
            lengths.append(len(read_audio(clip.path)) / SAMPLE_RATE)
            whole.append(clip)
        except AudioError as error:
            left_out.append((str(clip.path), error.happened))
    if not whole:
        raise DataError(
            "FA-2007",
            f"Of {len(clips)} clips none can be read; the first: {left_out[0][1]}",
            "Replace the damaged files.",
        )
    return Clips(whole), lengths, tuple(left_out)


def _usual_seconds(lengths: Sequence[float]) -> float:
    """Length that holds nearly every clip: the 95th percentile, 1 to 5 s, in steps of half a second."""
    return float(np.clip(math.floor(2 * np.quantile(lengths, 0.95)) / 2, 1.0, 5.0))
