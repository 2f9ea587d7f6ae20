"""What a listener makes of a recording, as a picture: spectrogram, scores, thresholds, events.

The listening process never loads this: it draws nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from common.audio import mel
from common.audio.front_end import SAMPLE_RATE, LogMel
from common.audio.reading import read_audio
from common.errors import DeviceError
from common.pictures import SERIES, as_written, begin_figure, save_figure
from common.protocol.release import Release
from common.task import is_background
from fl_client.home import DeviceHome
from fl_client.listen.events import Event
from fl_client.listen.recognizer import Recognizer
from fl_client.listen.settings import ListenSettings
from fl_client.newest import newest

DYNAMICS_DB = 70.0
"""What is further below the loudest place of a spectrogram is not told apart."""


@dataclass(frozen=True, eq=False)
class Course:
    """What a listener thought of a recording, hop by hop.

    Args:
        ends: where the window of each hop ends, in seconds, (hops,).
        scores: (hops, labels), before they are smoothed.
    """

    ends: NDArray[np.float64]
    scores: NDArray[np.float32]
    events: tuple[Event, ...]


def plot_recording(place: DeviceHome, owner: ListenSettings, source: str, out: Path) -> tuple[Event, ...]:
    """Draw what the newest model makes of `source`, file:PATH, into the PNG file `out`; the events in it.

    Raises:
        DeviceError: FA-4203 `source` is no file, FA-4220 there is no model, FA-4201, FA-4202.
        AudioError: FA-1001..FA-1008; FA-1005 if it is longer than ten minutes.
        TrainingError: FA-7061, matplotlib is not installed.
        StorageError: FA-8001.
    """
    kind, _, path = source.partition(":")
    path = path.removesuffix(",fast")  # as fast as it can be drawn, it is
    if kind != "file" or not path:
        raise DeviceError("FA-4203", f"'{source}' cannot be drawn: a picture is of a file.", "Use file:PATH.")
    release = newest(place)
    sound = read_audio(Path(path))
    course = listen_to(release, owner, sound)
    draw(release, owner, sound, course, out)
    return course.events


def listen_to(release: Release, owner: ListenSettings, sound: NDArray[np.float32]) -> Course:
    """Play `sound` (n,) to a recognizer, one hop at a time, for it tells its newest scores alone."""
    recognizer, front_end = Recognizer(release, owner), release.manifest.task.front_end
    hops = front_end.frames(len(sound))
    scores = np.zeros((hops, len(release.manifest.task.labels)), np.float32)
    events: list[Event] = []
    fed = 0
    for hop in range(hops):
        end = hop * front_end.hop + front_end.window
        events += recognizer.feed(sound[fed:end])
        scores[hop] = list(recognizer.scores.values())
        fed = end
    ends = (np.arange(hops) * front_end.hop + front_end.window) / SAMPLE_RATE
    return Course(ends, scores, tuple(events))


def draw(
    release: Release, owner: ListenSettings, sound: NDArray[np.float32], course: Course, out: Path
) -> None:
    """The picture of `course`, what was heard in `sound`; a threshold has the colour of its label.

    Raises:
        TrainingError: FA-7061, matplotlib is not installed.
        StorageError: FA-8001.
    """
    task, seconds = release.manifest.task, len(sound) / SAMPLE_RATE
    figure = begin_figure(min(30.0, 6.0 + seconds / 3), 5.5)
    above, below = figure.subplots(2, 1, sharex=True)
    shape = LogMel()
    # Drawn on the scale of bands, for that is how close the model sees them.
    above.imshow(
        log_mel(sound, shape).T,
        origin="lower",
        aspect="auto",
        extent=(0, seconds, 0, shape.bands),
        cmap="magma",
        interpolation="nearest",
    )
    above.set(ylabel="mel band", title=f"Version {release.version}, {len(course.events)} events")
    heard = {event.label for event in course.events}
    for number, place in enumerate(_worth_drawing(task.labels, course, heard)):
        label, colour = task.labels[place], SERIES[number % len(SERIES)]
        below.plot(course.ends, course.scores[:, place], color=colour, linewidth=1.2, label=as_written(label))
        threshold = owner.thresholds.get(label, task.trigger.threshold)
        below.axhline(threshold, color=colour, linewidth=0.8, linestyle=":")
    for event in course.events:
        above.axvline(event.end, color="white", linewidth=0.8)
        below.axvline(event.end, color="black", linewidth=0.8)
        below.text(event.end, 1.02, as_written(event.label), rotation=60, fontsize=8, clip_on=False)
    below.set(xlim=(0, max(seconds, 0.1)), ylim=(0, 1.2), xlabel="seconds", ylabel="score")
    below.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=8)
    save_figure(figure, out)


def log_mel(sound: NDArray[np.float32], shape: LogMel) -> NDArray[np.float32]:
    """Levels of mel bands (frames, bands) in dB relative to the loudest, and never below `-DYNAMICS_DB`."""
    if len(sound) < shape.window:
        return np.full((1, shape.bands), -DYNAMICS_DB, np.float32)
    frames = sliding_window_view(sound, shape.window)[:: shape.hop] * mel.hann(shape.window)
    powers = np.square(np.abs(np.fft.rfft(frames))) @ mel.filterbank(shape)
    loudest = max(float(powers.max()), mel.EPSILON)
    levels: NDArray[np.float32] = 10 * np.log10(np.maximum(powers / loudest, 10 ** (-DYNAMICS_DB / 10)))
    return levels


def _worth_drawing(labels: tuple[str, ...], course: Course, heard: set[str]) -> list[int]:
    """Labels that were heard, and those that came closest, as far as colours tell them apart."""
    peaks = course.scores.max(axis=0, initial=0.0)
    spoken = [place for place, label in enumerate(labels) if not is_background(label)]
    spoken.sort(key=lambda place: (labels[place] not in heard, -peaks[place]))
    return spoken[: max(len(heard), len(SERIES))]
