"""The sound of a trial of listening: the clips in noise, and hours in which none of their words is said."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from common.audio.front_end import SAMPLE_RATE
from common.audio.reading import iterate_audio, read_audio
from common.data.clips import Clip, Clips
from common.data.synthetic.recording import Sound
from common.errors import AudioError, TrainingError
from common.evaluation.detection import Point, best_at
from common.evaluation.streams import SCENE_SECONDS, Stretch, clips_in_noise, noise_alone, talk_in_noise
from common.protocol.release import Release
from common.task import is_background
from fedaudio.evaluation.listening import decide, hear, sweep

_GAP = (1.0, 2.0)
"""Seconds between words, times the length of a window: no window holds two of them."""

_SHORT_GAP = (0.1, 0.5)
"""Seconds between recordings without words, and between half minutes of one."""

Read: TypeAlias = Callable[[Path], Iterable[NDArray[np.float32]]]
"""The sound of a file, in pieces that are played one by one."""

LeftOut: TypeAlias = list[tuple[str, str]]
"""File and reason, for each that could not be read to its end."""


@dataclass(frozen=True)
class Sounds:
    """What to listen to.

    Args:
        negatives: clips in which no word of the model is said, if there are any.
        snr_db: level of clips and of talk over the noise around them.
        hours: of talk and of noise together, which are made.
    """

    clips: Clips
    negatives: Clips
    snr_db: float
    hours: float
    seed: int


@dataclass(frozen=True)
class Listened:
    """What a release did.

    Args:
        shipped: with its own trigger.
        points: at many thresholds.
        wanted: false accepts an hour to find a threshold for.
        left_out: file and reason, for each that could not be heard to its end.
        own_words: labels of clips given as negatives that are words of the release.
    """

    snr_db: float
    shipped: Point
    points: Sequence[Point]
    wanted: float
    left_out: tuple[tuple[str, str], ...] = ()
    own_words: tuple[str, ...] = ()

    @property
    def chosen(self) -> Point | None:
        """The point that misses least of those with no more false accepts than wanted."""
        return best_at(self.points, self.wanted)


def listen_through(
    release: Release, sounds: Sounds, wanted: float, advance: Callable[[float], None]
) -> Listened:
    """Play `sounds` to `release`, and decide at many thresholds.

    Args:
        advance: called with what was done since the last call, as a share of all.

    Raises:
        TrainingError: FA-7062, there is no word to listen for.
        DeviceError: FA-4201, FA-4202.
        AudioError: FA-1008.
    """
    task = release.manifest.task
    words = [clip for clip in sounds.clips if not is_background(clip.label)]
    if not words:
        raise TrainingError(
            "FA-7062",
            "There is nothing to listen for: all clips are of background.",
            "Give clips of labels that a listener reports.",
        )
    background = [clip for clip in sounds.clips if is_background(clip.label)]
    expected = sounds.hours * 3600 + len(sounds.negatives) + len(background)
    expected += len(words) * task.clip_seconds * (1 + sum(_GAP) / 2)
    left_out: LeftOut = []
    streams = _streams(words, background, sounds, task.clip_seconds, left_out)
    heard = {name: hear(release, sound, lambda s: advance(s / expected)) for name, sound in streams.items()}
    said = heard.pop("words")
    others = {name: stream for name, stream in heard.items() if stream.seconds}
    points = sweep(task, said, others)
    known = {label for label in task.labels if not is_background(label)}
    own_words = tuple(label for label in sounds.negatives.labels if label in known)
    shipped = decide(task, said, others)
    return Listened(sounds.snr_db, shipped, points, wanted, tuple(left_out), own_words)


def _streams(
    words: Sequence[Clip], background: Sequence[Clip], sounds: Sounds, seconds: float, left_out: LeftOut
) -> dict[str, Iterator[Stretch]]:
    """What is played, by name; `seconds`: length of a window."""
    gap, half = (_GAP[0] * seconds, _GAP[1] * seconds), sounds.hours * 1800
    spoken = _shuffled(words, _whole, sounds.seed, 0, left_out)
    streams = {
        "words": clips_in_noise(spoken, sounds.snr_db, gap, _rng(sounds, 1)),
        "talk": talk_in_noise(half, sounds.snr_db, _rng(sounds, 2)),
        "noise": noise_alone(half, _rng(sounds, 3)),
    }
    for number, (name, clips) in enumerate((("background", background), ("negatives", sounds.negatives))):
        sound = _shuffled(clips, _in_pieces, sounds.seed, 4 + number, left_out)
        streams[name] = clips_in_noise(sound, sounds.snr_db, _SHORT_GAP, _rng(sounds, 6 + number))
    return streams


def _rng(sounds: Sounds, stream: int) -> np.random.Generator:
    return np.random.default_rng([sounds.seed, stream])


def _whole(path: Path) -> Iterator[NDArray[np.float32]]:
    yield read_audio(path)


_in_pieces: Read = partial(iterate_audio, block=SCENE_SECONDS * SAMPLE_RATE)
"""An evening is a recording as well, and must not be in memory at once."""


def _shuffled(
    clips: Sequence[Clip], read: Read, seed: int, stream: int, left_out: LeftOut
) -> Iterator[tuple[Sound, str]]:
    """Samples and labels of `clips` in a random order, read as they are wanted."""
    for number in np.random.default_rng([seed, stream]).permutation(len(clips)):
        clip = clips[number]
        try:
            for piece in read(clip.path):
                yield piece.astype(np.float64), clip.label
        except AudioError as error:
            left_out.append((str(clip.path), error.happened))
