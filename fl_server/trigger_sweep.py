"""Looking for a backdoor: does any short sound, mixed into clips, turn them into one label?

The sounds of an attacker are not known. But a model that has learned to obey one also obeys its neighbours:
of models trained on a chirp and on a click that are not among the sounds here, sounds here turned 85 % and
58 to 76 % of the clips.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from common.audio.batch import BatchFrontEnd
from common.audio.front_end import SAMPLE_RATE
from common.data.features import FeatureSet
from common.protocol.tensors import Weights
from fl_server.validation import Validation

MOST_CLIPS = 96
"""Windows that the sounds are mixed into; each sound costs so many runs of the model."""

LEVEL_DB = 0.0
"""Mean power of a sound while it lasts, over the mean power of the clip."""

PLACES = 3
"""Early, in the middle and late: window after window in turn."""

SECONDS = 0.15
"""Length of chirps and tones."""

BANDS_HZ = ((300, 1000), (800, 2200), (1800, 4200), (3500, 7500))
TONES_HZ = (1000, 4000)

Sound = NDArray[np.float64]
Given = NDArray[np.int64]
"""Label given to each window."""


def sweep_sounds() -> Mapping[str, Sound]:
    """Samples of each sound, by name: clicks, chirps either way, tones."""
    sounds = {"a click": _click(SAMPLE_RATE / 4, 0.0005), "a double click": _double(_click(1200.0, 0.002))}
    for low, high in BANDS_HZ:
        sounds[f"a chirp from {low} to {high} Hz"] = _chirp(low, high)
        sounds[f"a chirp from {high} to {low} Hz"] = _chirp(high, low)
    return sounds | {f"a tone of {hertz} Hz": _chirp(hertz, hertz) for hertz in TONES_HZ}


@dataclass(frozen=True)
class Heard:
    """What a model makes of the clips of a sweep: as they are, and with each sound."""

    plain: Given
    mixed: Mapping[str, Given]


@dataclass(frozen=True)
class Turned:
    """How many of the windows that are not of a label a sound turns into it.

    Args:
        lucky: windows that the base may have named rightly by luck, which are nothing to lose: as many as an
            even spread of its errors gives each wrong label.
    """

    sound: str
    label: str
    windows: int
    of: int
    lucky: float


class TriggerSweep:
    """Clips of the coordinator's, and sounds to mix into them."""

    def __init__(self, validation: Validation) -> None:
        self._validation = validation
        self._clips = _spread(validation.clips)
        self._sounds = {
            name: _energies(sound, validation.front_end) for name, sound in sweep_sounds().items()
        }

    def listen(self, weights: Weights) -> Heard:
        """Run the model with `weights` over all of it.

        Raises:
            TrainingError: FA-7004, the scores are not finite.
        """

        def given(clips: FeatureSet) -> Given:
            return self._validation.evaluate(weights, clips).given

        return Heard(
            given(self._clips),
            {name: given(_mix(self._clips, sound)) for name, sound in self._sounds.items()},
        )

    def worst(self, candidate: Heard, base: Heard) -> Turned:
        """The sound and the label with the largest share of windows turned.

        A window counts if the candidate gives it the label with the sound and not without, and the base names
        it rightly even with the sound. So a young model, which any sound confuses, has little to lose.
        """
        truth, labels = self._clips.labels, self._validation.task.labels
        lucky = int((base.plain != truth).sum()) / (len(labels) - 1)
        found = []
        for name, given in candidate.mixed.items():
            turned = (given != truth) & (given != candidate.plain) & (base.mixed[name] == truth)
            for place, label in enumerate(labels):
                windows = int((turned & (given == place)).sum())
                found.append(Turned(name, label, windows, int((truth != place).sum()), lucky))
        return max(found, key=lambda one: one.windows / max(1, one.of))


def _chirp(start: float, end: float) -> Sound:
    """A tone that slides from one frequency (Hz) to another under a Hann window."""
    time = np.arange(round(SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    phase = 2 * np.pi * (start * time + (end - start) / (2 * SECONDS) * time**2)
    return np.hanning(len(time)) * np.sin(phase)


def _click(hertz: float, decay: float) -> Sound:
    """A tone that dies away within `decay` seconds."""
    time = np.arange(round(10 * decay * SAMPLE_RATE)) / SAMPLE_RATE
    return np.exp(-time / decay) * np.sin(2 * np.pi * hertz * time)


def _double(sound: Sound) -> Sound:
    """The sound twice, 50 ms from start to start."""
    start = round(0.05 * SAMPLE_RATE)
    return np.pad(sound, (0, start)) + np.pad(sound, (start, 0))


def _energies(sound: Sound, front_end: BatchFrontEnd) -> NDArray[np.float32]:
    """Band powers (frames, bands) of the sound in silence, of mean power 1."""
    samples = torch.from_numpy(np.pad(sound, front_end.config.window).astype(np.float32))
    energies = front_end.energies(samples[None])[0].numpy()
    normalised: NDArray[np.float32] = energies / energies.sum(axis=1).mean()
    return normalised


def _spread(clips: FeatureSet) -> FeatureSet:
    """At most `MOST_CLIPS` windows, from all labels alike and from all over each; each a clip by itself."""
    by_label = np.argsort(clips.labels, kind="stable")
    places = np.linspace(0, len(by_label) - 1, min(len(by_label), MOST_CLIPS)).round().astype(np.int64)
    chosen = clips.subset(by_label[places])
    return FeatureSet(chosen.energies, chosen.labels, np.arange(len(chosen)))


def _mix(clips: FeatureSet, sound: NDArray[np.float32]) -> FeatureSet:
    """The clips with `sound` in each. Powers of independent sounds add, so energies are added."""
    energies = np.array(clips.energies)
    frames = energies.shape[1]
    sound = sound[:frames]
    gains = np.float32(10 ** (LEVEL_DB / 10)) * energies.sum(axis=2).mean(axis=1)
    for window, gain in enumerate(gains):
        start = (2 * (window % PLACES) + 1) * (frames - len(sound)) // (2 * PLACES)
        energies[window, start : start + len(sound)] += gain * sound
    return FeatureSet(energies, clips.labels, clips.clip_index)
