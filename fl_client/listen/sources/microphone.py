"""The microphone."""

from __future__ import annotations

from functools import partial
from typing import Protocol, Self

from common.audio.front_end import SAMPLE_RATE
from common.errors import DeviceError
from fl_client.listen.ring import Rows
from fl_client.listen.sources.backlog import Backlog
from fl_client.listen.sources.source import PERIOD, Block


class Microphone:
    """The system's default microphone.

    Raises:
        DeviceError: on entering, FA-4204 the library for microphones is missing, FA-4205 no microphone could
            be opened; FA-4205 on reading, it has gone.
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
        gone = DeviceError(
            "FA-4205", "The microphone has gone.", "Plug it in again; a device that runs tries by itself."
        )
        try:
            self._stream = sounddevice.InputStream(
                samplerate=SAMPLE_RATE,
                channels=1,
                dtype="float32",
                blocksize=PERIOD,
                callback=self._deliver,
                finished_callback=partial(self._backlog.close, gone),
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
