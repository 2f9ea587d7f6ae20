"""Recordings played: a file, or all of a folder; in real time, or as fast as they are read."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator
from itertools import repeat
from pathlib import Path
from typing import Self

import numpy as np

from common.audio.front_end import SAMPLE_RATE
from common.audio.reading import iterate_audio
from common.data.clips import sound_files
from common.errors import AudioError, DeviceError
from fl_client.listen.ring import Rows
from fl_client.listen.sources.backlog import BACKLOG, Backlog
from fl_client.listen.sources.source import PERIOD, Block

log = logging.getLogger(__name__)

Play = Callable[[int], Generator[Rows, None, None]]
"""Gives sound in blocks of at most so many samples."""

PAUSE = SAMPLE_RATE
"""Samples of silence between two recordings of a folder, so that no word is heard across both."""


def play_file(path: Path, *, loop: bool = False) -> Play:
    """The sound of a file; with `loop` over and over without a gap.

    Raises:
        AudioError: on playing, as `iterate_audio`.
    """

    def play(block: int) -> Generator[Rows, None, None]:
        for file in repeat(path) if loop else [path]:
            yield from iterate_audio(file, block)

    return play


def play_folder(path: Path, *, loop: bool = False) -> Play:
    """The sound of all recordings in a folder and those in it, by name, `PAUSE` between each two.

    Damaged files are named in the log and left out.

    Raises:
        DeviceError: on playing, FA-4238, there is not, or no more, one recording that can be played.
    """

    def play(block: int) -> Generator[Rows, None, None]:
        begun = False
        for _ in repeat(None) if loop else [None]:
            heard = False
            for file in sound_files(path.rglob("*")):
                pause = _silence(block) if begun else iter(())
                for samples in _sound(file, block):
                    yield from pause  # empty from the second time on
                    yield samples
                    begun = heard = True
            if not heard:
                raise DeviceError(
                    "FA-4238",
                    f"There is no recording in {path} that can be played.",
                    "Name a folder with WAV, FLAC, OGG or MP3 files.",
                )

    return play


def _silence(block: int) -> Iterator[Rows]:
    for start in range(0, PAUSE, block):
        yield np.zeros(min(block, PAUSE - start), np.float32)


def _sound(file: Path, block: int) -> Iterator[Rows]:
    try:
        yield from iterate_audio(file, block)
    except AudioError as error:
        log.warning("a recording, or the rest of it, was left out: %s", error)


class Fast:
    """Sound as fast as it is read.

    Args:
        play: gives the sound in blocks of so many samples.

    Raises:
        AudioError, DeviceError: on reading, as `play`.
    """

    def __init__(self, play: Play) -> None:
        self._play = play

    def __enter__(self) -> Self:
        self._pieces = self._play(SAMPLE_RATE)
        return self

    def __exit__(self, *_: object) -> None:
        self._pieces.close()

    def read(self) -> Block | None:
        samples = next(self._pieces, None)
        return None if samples is None else Block(samples)


class Live:
    """Sound in real time, through the same backlog as a microphone: who reads it too slowly loses samples.

    Args:
        play: gives the sound in blocks of so many samples.

    Raises:
        AudioError, DeviceError: on reading, as `play`.
    """

    def __init__(self, play: Play, *, backlog: int = BACKLOG) -> None:
        self._play = play
        self._backlog = Backlog(backlog)
        self._stop = threading.Event()

    def __enter__(self) -> Self:
        pieces = self._play(PERIOD)
        self._player = threading.Thread(target=self._deliver, args=(pieces,), name="player", daemon=True)
        self._player.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._player.join()

    def read(self) -> Block | None:
        return self._backlog.read()

    def _deliver(self, pieces: Iterator[Rows]) -> None:
        due = time.monotonic()
        try:
            for samples in pieces:
                due += len(samples) / SAMPLE_RATE
                # To a deadline, not for a while: else every delay would add up and slow the sound down.
                if self._stop.wait(max(0.0, due - time.monotonic())):
                    return
                self._backlog.write(samples)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is raised where the sound is read
            self._backlog.close(error)
        else:
            self._backlog.close()
