"""Sound files to 16 kHz, one channel, float32."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile

from common.audio.front_end import LOUDEST, SAMPLE_RATE
from common.audio.mel import Array
from common.errors import AudioError

FORMATS = frozenset({"WAV", "WAVEX", "RF64", "FLAC", "OGG", "MP3"})

RATES = range(1_000, 192_001)
"""Sampling rates (Hz) that are believed; a header may claim any."""

_VALUES_PER_READ = 1 << 18
_UNKNOWN_LENGTH = (1 << 63) - 1
_ZERO_CROSSINGS = 32


class _SoundFile(soundfile.SoundFile):  # type: ignore[misc]
    """A file read from start to end.

    soundfile seeks to where it is after every read of a file that can seek. In the midst of an MP3 file that
    spoils the next samples, and at the end of a FLAC file of unknown length it fails.
    """

    def seekable(self) -> bool:
        return False


def read_audio(path: Path, *, max_seconds: float = 600.0) -> Array:
    """All samples (n,) of `path` at 16 kHz: the mean of its channels, full scale 1.

    Raises:
        AudioError: FA-1001 there is no such file, FA-1002 it is empty, FA-1003 it is not WAV, FLAC, OGG or
            MP3, FA-1004 it is damaged, FA-1005 it is longer than `max_seconds`, FA-1006 a sample is not a
            number or absurdly large, FA-1007 its sampling rate is absurd.
    """
    with _open(path) as file:
        # No more is decoded than the header announces, so a header that lies does not get around this.
        if max_seconds * file.samplerate < file.frames != _UNKNOWN_LENGTH:
            raise _too_long(path, max_seconds)
        pieces = []
        left = max_seconds * SAMPLE_RATE + 1  # rounding up may add one
        for piece in _resample(_decode(file, path), file.samplerate):
            left -= len(piece)
            if left < 0:
                raise _too_long(path, max_seconds)
            pieces.append(piece)
        return np.concatenate(pieces)


def iterate_audio(path: Path, block: int) -> Iterator[Array]:
    """What `read_audio` gives, in arrays of `block` samples (the last may be shorter), however long the file.

    Raises:
        AudioError: as `read_audio` except FA-1005; FA-1004 and FA-1006 when the bad place is reached.
    """
    with _open(path) as file:
        pending = np.empty(0, np.float32)
        for piece in _resample(_decode(file, path), file.samplerate):
            pending = np.concatenate((pending, piece))
            whole = len(pending) - len(pending) % block
            for start in range(0, whole, block):
                yield pending[start : start + block]
            pending = pending[whole:]
        if len(pending):
            yield pending


def _too_long(path: Path, seconds: float) -> AudioError:
    return AudioError("FA-1005", f"{path} is longer than {seconds:g} seconds.", "Cut it into shorter files.")


def _open(path: Path) -> _SoundFile:
    """`path`, with a header that can be believed."""
    _check_content(path)
    try:
        file = _SoundFile(path)
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: the name ends in .raw
        raise AudioError("FA-1003", f"{path} cannot be read as sound: {error}.", _CONVERT) from error
    if file.format not in FORMATS:
        problem = AudioError("FA-1003", f"{path} holds {file.format}, which is not read here.", _CONVERT)
    elif file.samplerate not in RATES:
        problem = AudioError("FA-1007", f"{path} claims a sampling rate of {file.samplerate} Hz.", _CONVERT)
    elif not file.frames:
        problem = AudioError("FA-1002", f"{path} holds no samples.", _REPLACE)
    else:
        return file
    file.close()
    raise problem


def _check_content(path: Path) -> None:
    """Make sure that `path` is a file with at least one byte; libsndfile's own messages do not tell."""
    try:
        if not path.is_file():  # opening a named pipe would block
            raise AudioError("FA-1001", f"There is no file {path}.", "Check the name.")
        with path.open("rb") as file:
            if not file.read(1):
                raise AudioError("FA-1002", f"{path} is empty.", _REPLACE)
    except OSError as error:
        raise AudioError(
            "FA-1001", f"{path} cannot be opened: {error.strerror}.", "Check the file's permissions."
        ) from error


def _decode(file: _SoundFile, path: Path) -> Iterator[Array]:
    """The mean of the channels, at the file's own rate, in arrays of bounded size."""
    count = max(1, _VALUES_PER_READ // file.channels)
    decoded = 0
    while decoded < file.frames:
        try:
            channels = file.read(count, dtype="float32", always_2d=True)
        except soundfile.SoundFileError as error:
            raise AudioError("FA-1004", f"{path} is damaged: {error}.", _REPLACE) from error
        if not len(channels):
            if file.frames == _UNKNOWN_LENGTH and decoded:
                return
            raise AudioError("FA-1004", f"{path} is damaged: it ends early.", _REPLACE)
        mono: Array = channels[:, 0] if file.channels == 1 else channels.mean(axis=1)
        if not np.abs(mono).max() <= LOUDEST:  # also true of NaN
            raise AudioError("FA-1006", f"{path} holds values that are no sound.", _REPLACE)
        decoded += len(mono)
        yield mono


def _resample(pieces: Iterable[Array], rate: int) -> Iterator[Array]:
    """`pieces` (at least one) of a signal at `rate` Hz, brought to 16 kHz, as if it were one array.

    Every piece is resampled together with as much of its neighbours as the filter reaches, and the edges are
    cut off; pieces begin at multiples of `down`, where samples of both rates coincide.
    """
    ratio = Fraction(SAMPLE_RATE, rate).limit_denominator(1000)  # off by 1e-6 at most, for odd rates
    up, down = ratio.numerator, ratio.denominator
    if up == down:
        yield from pieces
        return

    from scipy.signal import resample_poly

    low_pass = _low_pass(max(up, down))
    margin = down * math.ceil(len(low_pass) / (2 * up * down))

    def convert(samples: Array, count: int) -> Array:
        start = margin * up // down
        # The type stubs do not know that `window` may be the filter itself.
        result: Array = resample_poly(samples, up, down, window=low_pass)  # type: ignore[call-overload]
        return result[start : start + count]

    pending = silence = np.zeros(margin, np.float32)
    for piece in pieces:
        pending = np.concatenate((pending, piece))
        whole = (len(pending) - 2 * margin) // down * down
        if whole > 0:
            yield convert(pending[: whole + 2 * margin], whole * up // down)
            pending = pending[whole:]
    rest = math.ceil((len(pending) - margin) * up / down)
    yield convert(np.concatenate((pending, silence)), rest)


@lru_cache(maxsize=8)
def _low_pass(factor: int) -> Array:
    """Kaiser-windowed sinc that passes 1/factor of the band: stop band -80 dB, half amplitude at the edge."""
    from scipy.signal import firwin

    taps = firwin(2 * _ZERO_CROSSINGS * factor + 1, 1.0 / factor, window=("kaiser", 8.0))
    return np.asarray(taps, np.float32)


_REPLACE = "Record or copy it again, or leave it out."
_CONVERT = "Convert it to WAV or FLAC."
