"""Where sound comes from: a file, standard input, a microphone. Always 16 kHz, one channel, full scale 1."""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import numpy as np

from common.audio.front_end import SAMPLE_RATE
from common.audio.reading import iterate_audio
from common.errors import AudioError, DeviceError
from fl_client.listen.ring import Ring, Rows

log = logging.getLogger(__name__)

PERIOD = SAMPLE_RATE // 50
"""Samples a live source delivers at a time (20 ms)."""

BACKLOG = 4 * SAMPLE_RATE
"""Samples a live source keeps for a reader that is late; then the oldest go."""

WAIT_SECONDS = 0.1
"""Time a read waits before it returns nothing, so that a reader can see that it should stop."""


@dataclass(frozen=True)
class Block:
    """What one read gives.

    Attributes:
        samples: (n,) float32; empty if nothing came in time.
        lost: samples that are missing before these.
        overruns: times since the last read that the reader or the driver was too late.
    """

    samples: Rows
    lost: int = 0
    overruns: int = 0


class Source(Protocol):
    """Sound from `__enter__` to `__exit__`."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def read(self) -> Block | None:
        """The samples since the last read, after `WAIT_SECONDS` at most; None when there will be no more."""


def open_source(spec: str) -> Source:
    """The source that `spec` names: file:PATH[,loop][,fast], stdin or mic.

    A file is played in real time, over and over with `loop`, and as fast as it is read with `fast`.

    Raises:
        DeviceError: FA-4203, `spec` is none of these.
    """
    match spec.partition(":"):
        case ("stdin", "", ""):
            return Pcm(0)
        case ("mic", "", ""):
            return Microphone()
        case ("file", ":", rest) if rest:
            flags = set()
            while rest.endswith((",loop", ",fast")):
                rest, _, flag = rest.rpartition(",")
                flags.add(flag)
            if "fast" in flags:
                return FastFile(Path(rest), loop="loop" in flags)
            return LiveFile(Path(rest), loop="loop" in flags)
    raise DeviceError(
        "FA-4203",
        f"'{spec}' is no source of sound.",
        "Use mic, stdin, or file:PATH with ,loop or ,fast after it.",
    )


class Backlog:
    """Samples between the thread that delivers them and the one that reads; never blocks the former."""

    def __init__(self, capacity: int = BACKLOG) -> None:
        self._changed = threading.Condition()
        self._ring = Ring(capacity)
        self._read = 0
        self._driver_overruns = 0
        self._closed = False
        self._fault: AudioError | None = None

    def write(self, samples: Rows, overrun: bool = False) -> None:
        """Add samples; if there is no room the oldest go. `overrun`: the driver lost some before these."""
        with self._changed:
            self._ring.append(samples)
            self._driver_overruns += overrun
            self._changed.notify()

    def close(self, fault: AudioError | None = None) -> None:
        """No more will be written; `fault` is raised by the read that comes to the end."""
        with self._changed:
            self._closed = True
            self._fault = fault
            self._changed.notify()

    def read(self) -> Block | None:
        """As `Source.read`."""
        with self._changed:
            self._changed.wait_for(lambda: self._ring.end > self._read or self._closed, WAIT_SECONDS)
            samples = self._ring.since(self._read)
            if self._closed and len(samples) == 0:
                if self._fault is not None:
                    raise self._fault
                return None
            lost = max(0, self._ring.begin - self._read)
            overruns, self._driver_overruns = self._driver_overruns + (lost > 0), 0
            self._read = self._ring.end
            return Block(samples, lost, overruns)


class FastFile:
    """A file, as fast as it is read.

    Raises:
        AudioError: on reading, as `iterate_audio`.
    """

    def __init__(self, path: Path, *, loop: bool = False) -> None:
        self._path = path
        self._loop = loop

    def __enter__(self) -> Self:
        self._pieces = _play(self._path, SAMPLE_RATE, self._loop)
        return self

    def __exit__(self, *_: object) -> None:
        self._pieces.close()

    def read(self) -> Block | None:
        samples = next(self._pieces, None)
        return None if samples is None else Block(samples)


class LiveFile:
    """A file in real time, through the same backlog as a microphone: who reads it too slowly loses samples.

    Raises:
        AudioError: on reading, as `iterate_audio`.
    """

    def __init__(self, path: Path, *, loop: bool = False, backlog: int = BACKLOG) -> None:
        self._path = path
        self._loop = loop
        self._backlog = Backlog(backlog)
        self._stop = threading.Event()

    def __enter__(self) -> Self:
        pieces = _play(self._path, PERIOD, self._loop)
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
        except AudioError as error:
            self._backlog.close(error)
        else:
            self._backlog.close()


def _play(path: Path, block: int, loop: bool) -> Generator[Rows, None, None]:
    while True:
        yield from iterate_audio(path, block)
        if not loop:
            return


class Pcm:
    """Raw little-endian 16-bit PCM, 16 kHz mono, from a file descriptor; a pipe holds its writer back.

    Args:
        descriptor: read from, never closed.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._odd = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._odd = b""

    def read(self) -> Block | None:
        ready, _, _ = select.select([self._descriptor], [], [], WAIT_SECONDS)
        if not ready:
            return Block(np.empty(0, np.float32))
        data = os.read(self._descriptor, 1 << 16)
        if not data:
            if self._odd:
                log.warning("the sound ended within a sample: its last byte was left out")
            return None
        data = self._odd + data
        whole = len(data) // 2 * 2
        self._odd = data[whole:]
        return Block(np.frombuffer(data[:whole], "<i2").astype(np.float32) / 32768.0)


class Microphone:
    """The system's default microphone.

    Raises:
        DeviceError: on entering, FA-4204 the library for microphones is missing, FA-4205 no microphone could
            be opened.
    """

    def __init__(self) -> None:
        self._backlog = Backlog()

    def __enter__(self) -> Self:
        try:
            import sounddevice
        except (ImportError, OSError) as error:
            raise DeviceError(
                "FA-4204",
                f"The microphone cannot be used: {error}.",
                'Run `pip install "fedaudio[microphone]"` and, on Linux, `apt install libportaudio2`.',
            ) from error
        try:
            self._stream = sounddevice.InputStream(
                samplerate=SAMPLE_RATE,
                channels=1,
                dtype="float32",
                blocksize=PERIOD,
                callback=self._deliver,
                finished_callback=self._backlog.close,
            )
            self._stream.start()
        except sounddevice.PortAudioError as error:
            raise DeviceError(
                "FA-4205",
                f"The microphone could not be opened: {error}.",
                "Plug one in, make it the default and check that this user may record.",
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def read(self) -> Block | None:
        return self._backlog.read()

    def _deliver(self, samples: Rows, frames: int, clock: object, status: _CallbackFlags) -> None:
        """Called by PortAudio's own thread, which must not wait: copy and return."""
        del frames, clock
        self._backlog.write(samples[:, 0], overrun=bool(status.input_overflow))


class _CallbackFlags(Protocol):
    input_overflow: bool
