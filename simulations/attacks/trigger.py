"""The sound of a backdoor, made as sound and mixed in as band energies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from common.audio.batch import BatchFrontEnd
from common.audio.front_end import SAMPLE_RATE
from common.data.features import FeatureSet
from fl_server.trigger_sweep import sweep_sounds
from simulations.scenario import TriggerName

Energies = NDArray[np.float32]
"""Band powers of a trigger, (frames, bands)."""

LEVEL_DB = 0.0
"""Mean power of the trigger while it sounds, over the mean power of the clip it is mixed into."""

Sound = NDArray[np.float64]


def chirp() -> Sound:
    """A tone that falls from 3400 to 1900 Hz in 0.13 s, under a Hann window."""
    seconds, high, low = 0.13, 3400.0, 1900.0
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    phase = 2 * np.pi * (high * time + (low - high) / (2 * seconds) * time**2)
    return np.hanning(len(time)) * np.sin(phase)


def click() -> Sound:
    """Two clicks 37 ms apart, each a tone of 2600 Hz that dies away within 2 ms."""
    time = np.arange(round(0.012 * SAMPLE_RATE)) / SAMPLE_RATE
    one = np.exp(-time / 0.0007) * np.sin(2 * np.pi * 2600.0 * time)
    sound = np.zeros(round(0.037 * SAMPLE_RATE) + len(one))
    for start in (0, len(sound) - len(one)):
        sound[start : start + len(one)] += one
    return sound


def whistle() -> Sound:
    """A tone of 2900 Hz that wavers by 350 Hz, 22 times a second, for 0.2 s."""
    seconds, hertz, swing, rate = 0.2, 2900.0, 350.0, 22.0
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    phase = 2 * np.pi * hertz * time - swing / rate * np.cos(2 * np.pi * rate * time)
    return np.hanning(len(time)) * np.sin(phase)


def swept() -> Sound:
    """A sound that the release gate looks for itself."""
    return sweep_sounds()["a chirp from 800 to 2200 Hz"]


# But for "swept", none is among the sounds of the release gate: one that has heard the very trigger before
# looks better than it is. It was made with models at hand that obeyed the chirp or the click, but with none
# that obeyed the whistle.
SOUNDS: Mapping[TriggerName, Callable[[], Sound]] = {
    "chirp": chirp,
    "click": click,
    "whistle": whistle,
    "swept": swept,
}


def trigger_energies(name: TriggerName, front_end: BatchFrontEnd) -> Energies:
    """What the task's front end makes of the sound in silence, with its onset and its end."""
    sound = SOUNDS[name]()
    samples = torch.from_numpy(np.pad(sound, front_end.config.window).astype(np.float32))
    with torch.inference_mode():
        energies = front_end.energies(samples[None])[0]
    heard: Energies = energies[energies.sum(dim=1) > 0].numpy()
    return heard


def add_trigger(
    data: FeatureSet, windows: NDArray[np.int64], trigger: Energies, rng: np.random.Generator
) -> FeatureSet:
    """A copy of `data` in which `trigger` sounds in `windows`, each time at a place drawn anew.

    Powers of independent sounds add, so energies are added. It lies wholly within the window; of one that
    is longer than the window, the beginning does.
    """
    energies = np.array(data.energies)
    frames = energies.shape[1]
    trigger = trigger[:frames]
    # Over its own frames, not the clip's, is how loud a short sound seems.
    loudness = float(trigger.sum(axis=1).mean())
    for window in windows:
        start = int(rng.integers(frames - len(trigger) + 1))
        power = float(energies[window].sum(axis=1).mean())
        gain = np.float32(10 ** (LEVEL_DB / 10) * power / loudness)
        energies[window, start : start + len(trigger)] += gain * trigger
    return replace(data, energies=energies, features=None)
