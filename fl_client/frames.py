"""Byte strings over a pipe, each after its length: how the link talks to its training worker."""

from __future__ import annotations

import os
import selectors
import time
from typing import IO

LENGTH = 8


def write_frame(pipe: IO[bytes], data: bytes) -> None:
    """Send one byte string."""
    pipe.write(len(data).to_bytes(LENGTH, "big"))
    pipe.write(data)
    pipe.flush()


def read_frame(pipe: IO[bytes]) -> bytes | None:
    """The next byte string; None when the other side has closed."""
    length = pipe.read(LENGTH)
    if len(length) < LENGTH:
        return None
    data = pipe.read(int.from_bytes(length, "big"))
    return data if len(data) == int.from_bytes(length, "big") else None


def read_frame_until(descriptor: int, deadline: float) -> bytes | None:
    """As `read_frame` on an unbuffered descriptor.

    Raises:
        TimeoutError: the frame was not whole at `deadline` (monotonic seconds).
    """
    head = _read_exactly(descriptor, LENGTH, deadline)
    return None if head is None else _read_exactly(descriptor, int.from_bytes(head, "big"), deadline)


def write_frame_until(descriptor: int, data: bytes, deadline: float) -> None:
    """As `write_frame` on a descriptor that does not block.

    Raises:
        TimeoutError: the frame was not taken whole at `deadline` (monotonic seconds).
        OSError: the other side has closed.
    """
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_WRITE)
        for part in (len(data).to_bytes(LENGTH, "big"), data):
            rest = memoryview(part)
            while rest:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError
                rest = rest[os.write(descriptor, rest) :]


def _read_exactly(descriptor: int, count: int, deadline: float) -> bytes | None:
    data = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while len(data) < count:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise TimeoutError
            part = os.read(descriptor, min(1 << 20, count - len(data)))
            if not part:
                return None
            data += part
    return bytes(data)
