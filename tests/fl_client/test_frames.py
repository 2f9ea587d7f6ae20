"""Frames over a pipe: whole or not at all, and never waited for longer than allowed."""

from __future__ import annotations

import io
import os
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_client.frames import read_frame, read_frame_until, write_frame, write_frame_until


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_frames_come_back_in_order(frames: list[bytes]) -> None:
    pipe = io.BytesIO()
    for frame in frames:
        write_frame(pipe, frame)
    pipe.seek(0)
    assert [read_frame(pipe) for _ in frames] == frames
    assert read_frame(pipe) is None


@given(st.binary(min_size=1, max_size=50), st.data())
def test_a_frame_cut_short_is_none(frame: bytes, data: st.DataObject) -> None:
    pipe = io.BytesIO()
    write_frame(pipe, frame)
    cut = data.draw(st.integers(0, len(pipe.getvalue()) - 1))
    assert read_frame(io.BytesIO(pipe.getvalue()[:cut])) is None
    read_end, write_end = os.pipe()
    os.write(write_end, pipe.getvalue()[:cut])
    os.close(write_end)
    assert read_frame_until(read_end, time.monotonic() + 60) is None
    os.close(read_end)


def test_a_frame_larger_than_the_pipe_comes_in_parts() -> None:
    read_end, write_end = os.pipe()
    frame = os.urandom(3_000_000)
    with os.fdopen(write_end, "wb") as pipe:
        writer = threading.Thread(target=write_frame, args=(pipe, frame))
        writer.start()
        assert read_frame_until(read_end, time.monotonic() + 60) == frame
        writer.join()
    os.close(read_end)


@pytest.mark.parametrize("part", [b"", b"\0" * 4, (5).to_bytes(8, "big") + b"abc"])
def test_what_does_not_come_in_time_is_not_waited_for(part: bytes) -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, part)
    with pytest.raises(TimeoutError):
        read_frame_until(read_end, time.monotonic() + 0.01)
    os.close(read_end)
    os.close(write_end)


def test_a_frame_is_written_as_it_is_read() -> None:
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    frame = os.urandom(3_000_000)
    writer = threading.Thread(target=write_frame_until, args=(write_end, frame, time.monotonic() + 60))
    writer.start()
    with os.fdopen(read_end, "rb") as pipe:
        assert read_frame(pipe) == frame
    writer.join()
    with pytest.raises(BrokenPipeError):
        write_frame_until(write_end, frame, time.monotonic() + 60)
    os.close(write_end)


def test_who_does_not_read_is_not_waited_for() -> None:
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    with pytest.raises(TimeoutError):
        write_frame_until(write_end, bytes(3_000_000), time.monotonic() + 0.01)
    os.close(read_end)
    os.close(write_end)
