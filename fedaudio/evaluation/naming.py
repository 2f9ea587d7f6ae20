"""A release that names clips, by the graph and the front end that devices run: it needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.audio.reading import read_audio
from common.audio.stream import StreamFrontEnd
from common.data.clips import Clips
from common.data.windows import cut_windows
from common.errors import AudioError, TrainingError
from common.evaluation.conditions import Condition, changed
from common.evaluation.counts import Answers
from common.protocol.release import Release
from common.task import Task
from fl_client.listen.scorer import build_scorer

TINY = 1e-30
"""Probability below which it makes no difference how small it is."""


class Namer:
    """Names whole clips.

    Raises:
        DeviceError: FA-4201, FA-4202, the release cannot be run.
        AudioError: FA-1008, its front end is impossible.
    """

    def __init__(self, release: Release) -> None:
        self._task = release.manifest.task
        self._front_end = StreamFrontEnd(self._task.front_end)
        self._scorer = build_scorer(release)

    def name(self, sound: NDArray[np.float32]) -> int:
        """Position of the label given to `sound` (n,).

        One of several windows is decided by the mean of their log-probabilities.
        """
        windows = cut_windows(sound, self._task.clip_samples)
        return int(np.mean([self._log_probabilities(window) for window in windows], axis=0).argmax())

    def _log_probabilities(self, window: NDArray[np.float32]) -> NDArray[np.float32]:
        self._front_end.reset()
        self._scorer.reset(0)
        scores = self._scorer.feed(self._front_end.feed(window))[-1]
        logs: NDArray[np.float32] = np.log(np.maximum(scores, TINY))
        return logs


@dataclass(frozen=True)
class Tried:
    """A collection as far as a task can be tried on it.

    Args:
        clips: those whose label the task has.
        extra: labels the task does not have; their clips are left out.
        missing: labels of the task of which there is no clip.
    """

    clips: Clips
    extra: tuple[str, ...]
    missing: tuple[str, ...]


def triable(clips: Clips, task: Task) -> Tried:
    """The part of `clips` that `task` knows the labels of.

    Raises:
        TrainingError: FA-7060, there is none.
    """
    known = clips.filter(lambda clip: clip.label in task.labels)
    if not known:
        raise TrainingError(
            "FA-7060",
            f"None of the {len(clips)} clips has a label that the model knows; theirs are "
            f"{', '.join(clips.labels[:10])}.",
            f"Give clips with labels of the model: {', '.join(task.labels[:10])}.",
        )
    extra = tuple(label for label in clips.labels if label not in task.labels)
    missing = tuple(label for label in task.labels if label not in known.labels)
    return Tried(known, extra, missing)


def name_clips(
    release: Release,
    tried: Tried,
    groups: Sequence[str],
    conditions: Sequence[Condition],
    seed: int,
    advance: Callable[[int], None],
) -> tuple[dict[str, Answers], tuple[tuple[str, str], ...]]:
    """What `release` calls each clip under each of `conditions`.

    Args:
        groups: of each clip.
        seed: of what the conditions draw.
        advance: called with the number of clips named since the last call.

    Returns:
        Answers by the condition's name, and file and reason of each clip that could not be read.

    Raises:
        DeviceError: FA-4201, FA-4202.
        AudioError: FA-1008.
        TrainingError: FA-7060, no clip could be read.
    """
    task, namer = release.manifest.task, Namer(release)
    given: dict[str, list[int]] = {condition.name: [] for condition in conditions}
    kept, damaged = [], []
    for number, clip in enumerate(tried.clips):
        try:
            sound = _long_enough(read_audio(clip.path), task)
        except AudioError as error:
            damaged.append((str(clip.path), error.happened))
            continue
        kept.append(number)
        for condition in conditions:
            heard = changed(sound, condition, seed, f"{clip.label}/{clip.path.name}").astype(np.float32)
            given[condition.name].append(namer.name(heard))
            advance(1)
    if not kept:
        raise TrainingError(
            "FA-7060",
            f"None of the {len(tried.clips)} clips can be read.",
            "Give sound files that are whole.",
        )
    truth = np.array([task.labels.index(tried.clips[number].label) for number in kept])
    chosen = [groups[number] for number in kept]
    answers = {name: Answers(task.labels, truth, np.array(labels), chosen) for name, labels in given.items()}
    return answers, tuple(damaged)


def _long_enough(sound: NDArray[np.float32], task: Task) -> NDArray[np.float64]:
    """`sound` with the zeros at its end that a window needs: a room or noise goes on in them."""
    return np.pad(sound.astype(np.float64), (0, max(0, task.clip_samples - len(sound))))
