"""Writes synthetic corpora: the same seed gives the same files."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from enum import IntEnum
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
from numpy.typing import NDArray

from common.audio.front_end import SAMPLE_RATE
from common.data.synthetic.recording import draw_recorder, mix, record
from common.data.synthetic.textures import TEXTURES, draw_texture
from common.data.synthetic.voices import draw_voice, speak
from common.data.synthetic.words import BABBLE, WORDS
from common.errors import DataError
from common.files import StorageError, make_folder, write_atomic
from common.version import VERSION

Kind = Literal["words", "textures", "babble"]

BACKGROUND = "background"
"""Label of the clips of a words corpus in which no word is said."""

CLIP_SAMPLES = SAMPLE_RATE
"""Every clip lasts 1.0 s."""

_SNR_DB: Mapping[Kind, tuple[float, float]] = {"words": (16, 36), "textures": (6, 26), "babble": (10, 36)}
"""Lowest and highest level of what a clip is about over what else is heard."""


def make_corpus(
    folder: Path,
    *,
    kind: Kind,
    voices: int,
    labels: int,
    takes: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write `folder`/<label>/<voice>_<take>.flac (16 kHz, mono, 16 bit, 1.0 s) and `folder`/manifest.csv.

    A corpus of "words" has `labels` pseudo-words, said by `voices` people, and the label "background": the
    same rooms and devices without a word; one of "babble" has other words, and more of them. A corpus of
    "textures" has `labels` everyday sounds from `voices` recording sites. A clip depends on `seed`, its
    voice, its label and its take, not on how many of them there are, so a larger corpus contains the smaller
    one. The manifest (path, label, speaker) comes last.

    Args:
        voices: people, or recording sites.
        takes: clips of each label from each of them.
        seed: not negative.
        progress: called with clips written and clips in all.

    Returns:
        The manifest's path.

    Raises:
        DataError: FA-2040, a number is out of range.
        StorageError: FA-8001, the disk is full or read-only.
    """
    known = _labels(kind)
    for name, value, highest in (
        ("voices", voices, 999),
        ("labels", labels, len(known)),
        ("takes", takes, 99),
    ):
        if not 1 <= value <= highest:
            raise DataError(
                "FA-2040",
                f"A corpus of {kind} cannot have {value} {name}.",
                f"Choose a number of {name} from 1 to {highest}.",
            )
    chosen = known[:labels] if kind == "textures" else (*known[:labels], BACKGROUND)
    for label in chosen:
        make_folder(folder / label)

    total = voices * len(chosen) * takes
    rows = [("path", "label", "speaker")]
    for voice in range(voices):
        speaker = f"{'s' if kind == 'textures' else 'v'}{voice:03d}"
        for label, take, clip in _clips(kind, voice, chosen, takes, seed):
            path = f"{label}/{speaker}_{take:02d}.flac"
            _write(folder / path, clip)
            rows.append((path, label, speaker))
            if progress is not None:
                progress(len(rows) - 1, total)

    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    manifest = folder / "manifest.csv"
    write_atomic(manifest, text.getvalue().encode())
    return manifest


def kept_corpus(cache: Path, *, kind: Kind, voices: int, labels: int, takes: int, seed: int) -> Path:
    """The folder of such a corpus in `cache`, made unless it is there; nobody else may use it meanwhile.

    Raises:
        DataError: FA-2040, a number is out of range.
        StorageError: FA-8001.
    """
    folder = make_folder(cache / "corpora") / f"{kind}-{voices}-{labels}-{takes}-{seed}-{VERSION}"
    # The manifest is written last: where it is, the corpus is whole.
    if not (folder / "manifest.csv").is_file():
        make_corpus(folder, kind=kind, voices=voices, labels=labels, takes=takes, seed=seed)
    return folder


class _Draw(IntEnum):
    """What a generator is for; keeps the streams of random numbers of one seed apart."""

    PERSON = 1
    DEVICE = 2
    SITE = 3
    TAKE = 4


def _generator(seed: int, draw: _Draw, voice: int, label: int = 0, take: int = 0) -> np.random.Generator:
    return np.random.default_rng([seed, draw, voice, label, take])


def _labels(kind: Kind) -> tuple[str, ...]:
    return {"words": WORDS, "textures": tuple(TEXTURES), "babble": BABBLE}[kind]


def _clips(
    kind: Kind, voice: int, labels: tuple[str, ...], takes: int, seed: int
) -> Iterator[tuple[str, int, NDArray[np.float64]]]:
    """Label, number and samples of each take of one voice or site."""
    person = draw_voice(_generator(seed, _Draw.PERSON, voice))
    recorder = draw_recorder(_generator(seed, _Draw.DEVICE, voice))
    known = (BACKGROUND, *_labels(kind))
    for label in labels:
        number = known.index(label)
        for take in range(takes):
            rng = _generator(seed, _Draw.TAKE, voice, number, take)
            around = draw_texture(CLIP_SAMPLES, rng)
            loudness_db = rng.normal(0, 2)
            if label == BACKGROUND:
                sound = draw_texture(CLIP_SAMPLES, rng)
                loudness_db -= rng.uniform(0, 25)
            elif kind != "textures":
                sound = speak(label, person, CLIP_SAMPLES, rng)
            else:
                # drawn afresh for each take, the site's numbers come out the same
                site = _generator(seed, _Draw.SITE, voice, number)
                sound = TEXTURES[label](CLIP_SAMPLES, site, rng)
            heard = mix(sound, around, rng.uniform(*_SNR_DB[kind]))
            yield label, take, record(heard, recorder, loudness_db, rng)


def _write(path: Path, clip: NDArray[np.float64]) -> None:
    # encoded in memory: libsndfile reports a full disk as "unspecified internal error"
    encoded = io.BytesIO()
    soundfile.write(encoded, clip, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    try:
        path.write_bytes(encoded.getvalue())
    except OSError as error:
        raise StorageError(
            "FA-8001",
            f"{path} could not be written: {error.strerror or error}.",
            "Free some space or make the folder writable, then try again.",
        ) from error
