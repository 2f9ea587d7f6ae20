"""The sound of a trial of listening: the clips in noise, and hours in which none of their words is said."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from common.audio.reading import read_audio
from common.data.clips import Clip, Clips
from common.data.synthetic.recording import Sound
from common.errors import AudioError, TrainingError
from common.evaluation.detection import Point, best_at
from common.evaluation.streams import clips_in_noise, noise_alone, talk_in_noise
from common.protocol.release import Release
from fedaudio.evaluation.listening import decide, hear, sweep
from fl_client.listen.trigger import is_background

_GAP = (1.0, 2.0)
"""Seconds between words, times the length of a window: no window holds two of them."""

_SHORT_GAP = (0.1, 0.5)
"""Seconds between recordings without words."""


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
    """

    snr_db: float
    shipped: Point
    points: Sequence[Point]
    wanted: float

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
    gap = (_GAP[0] * task.clip_seconds, _GAP[1] * task.clip_seconds)
    streams = {"words": clips_in_noise(_shuffled(words, sounds.seed, 0), sounds.snr_db, gap, _rng(sounds, 1))}
    half = sounds.hours * 1800
    streams["talk"] = talk_in_noise(half, sounds.snr_db, _rng(sounds, 2))
    streams["noise"] = noise_alone(half, _rng(sounds, 3))
    for number, (name, clips) in enumerate((("background", background), ("negatives", sounds.negatives))):
        if clips:
            sound = _shuffled(clips, sounds.seed, 4 + number)
            streams[name] = clips_in_noise(sound, sounds.snr_db, _SHORT_GAP, _rng(sounds, 6 + number))
    expected = 2 * half + len(sounds.negatives) + len(background) + len(words) * (1 + sum(gap) / 2)
    heard = {name: hear(release, sound, lambda s: advance(s / expected)) for name, sound in streams.items()}
    said = heard.pop("words")
    return Listened(sounds.snr_db, decide(task, said, heard), sweep(task, said, heard), wanted)


def _rng(sounds: Sounds, stream: int) -> np.random.Generator:
    return np.random.default_rng([sounds.seed, stream])


def _shuffled(clips: Sequence[Clip], seed: int, stream: int) -> Iterator[tuple[Sound, str]]:
    """Samples and labels of `clips` that can be read, in a random order, read as they are wanted."""
    for number in np.random.default_rng([seed, stream]).permutation(len(clips)):
        try:
            yield read_audio(clips[number].path).astype(np.float64), clips[number].label
        except AudioError:
            continue
