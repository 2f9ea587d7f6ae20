"""Raw sound: 16-bit little-endian PCM, 16 kHz, mono."""

from __future__ import annotations

import logging
import os
import select
from typing import Self

import numpy as np

from fl_client.listen.ring import Rows
from fl_client.listen.sources.source import WAIT_SECONDS, Block

log = logging.getLogger(__name__)


class PcmDecoder:
    """Samples of bytes that come in pieces of any length."""

    def __init__(self) -> None:
        self._odd = b""

    def decode(self, data: bytes) -> Rows:
        """The samples that are whole by now."""
        data = self._odd + data
        whole = len(data) // 2 * 2
        self._odd = data[whole:]
        return np.frombuffer(data[:whole], "<i2").astype(np.float32) / 32768.0

    def end(self) -> None:
        """Nothing more comes; say so if it was in the midst of a sample, and be as new."""
        if self._odd:
            log.warning("the sound ended within a sample: its last byte was left out")
        self._odd = b""


class Pcm:
    """PCM from a file descriptor; a pipe holds its writer back.

    Args:
        descriptor: read from, never closed.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._decoder = PcmDecoder()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read(self) -> Block | None:
        ready, _, _ = select.select([self._descriptor], [], [], WAIT_SECONDS)
        if not ready:
            return Block(np.empty(0, np.float32))
        data = os.read(self._descriptor, 1 << 16)
        if not data:
            self._decoder.end()
            return None
        return Block(self._decoder.decode(data))
