"""Sound from files, pipes and the backlog of live sources."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from common.errors import AudioError, DeviceError
from fl_client.listen.sources import Block, Source, open_source
from fl_client.listen.sources.backlog import Backlog
from fl_client.listen.sources.microphone import Microphone
from fl_client.listen.sources.pcm import Pcm
from fl_client.listen.sources.recordings import PAUSE, Fast, Live, play_file, play_folder
from fl_client.listen.sources.source import PERIOD
from fl_client.listen.sources.websocket import WebSocketPcm

Sound = NDArray[np.float32]


def read_all(source: Source | Backlog) -> list[Block]:
    blocks = []
    while (block := source.read()) is not None:
        blocks.append(block)
    return blocks


def joined(blocks: list[Block]) -> Sound:
    return np.concatenate([block.samples for block in blocks])


@pytest.fixture
def short(tmp_path: Path) -> tuple[Path, Sound]:
    """A third of a second, of a length that no block size divides."""
    sound = np.random.default_rng(3).uniform(-0.5, 0.5, 5003).astype(np.float32)
    soundfile.write(tmp_path / "short.wav", sound, 16000, subtype="FLOAT")
    return tmp_path / "short.wav", sound


def test_a_fast_file_is_all_of_the_file(short: tuple[Path, Sound]) -> None:
    path, sound = short
    with Fast(play_file(path)) as source:
        np.testing.assert_array_equal(joined(read_all(source)), sound)


def test_a_looped_file_goes_on_without_a_gap(short: tuple[Path, Sound]) -> None:
    path, sound = short
    with Fast(play_file(path, loop=True)) as source:
        blocks = [source.read() for _ in range(12)]
    heard = joined([block for block in blocks if block is not None])
    assert len(heard) > 2 * len(sound)
    np.testing.assert_array_equal(heard, np.resize(sound, len(heard)))


def test_a_live_file_is_all_of_the_file_and_not_faster_than_time(short: tuple[Path, Sound]) -> None:
    path, sound = short
    began = time.monotonic()
    with Live(play_file(path)) as source:
        blocks = read_all(source)
    assert time.monotonic() - began >= len(sound) / 16000
    np.testing.assert_array_equal(joined(blocks), sound)
    assert not any(block.lost or block.overruns for block in blocks)
    assert all(len(block.samples) % PERIOD == 0 for block in blocks[:-1])


def test_who_reads_a_live_file_too_late_is_told_what_was_lost(short: tuple[Path, Sound]) -> None:
    path, sound = short
    with Live(play_file(path), backlog=1000) as source:
        source._player.join()  # nobody reads until the file is over
        (block,) = read_all(source)
    np.testing.assert_array_equal(block.samples, sound[-1000:])
    assert (block.lost, block.overruns) == (len(sound) - 1000, 1)


def test_a_live_file_can_be_left_at_any_time(short: tuple[Path, Sound]) -> None:
    before = threading.active_count()
    with Live(play_file(short[0], loop=True)) as source:
        assert source.read() is not None
    assert threading.active_count() == before


@pytest.mark.parametrize("kind", [Fast, Live])
def test_a_file_that_is_not_there_is_an_error_of_its_own(kind: type[Fast | Live], tmp_path: Path) -> None:
    with kind(play_file(tmp_path / "none.wav")) as source, pytest.raises(AudioError, match="FA-1001"):
        read_all(source)


def test_any_fault_of_the_player_comes_to_its_reader() -> None:
    def play(block: int) -> Generator[Sound, None, None]:
        yield np.zeros(block, np.float32)
        raise MemoryError("too large")

    with Live(play) as source, pytest.raises(MemoryError, match="too large"):
        list(itertools.islice(iter(source.read, None), 30))


@given(writes=st.lists(st.tuples(st.integers(0, 70), st.booleans()), max_size=40))
def test_a_backlog_delivers_every_sample_once_or_counts_it_as_lost(writes: list[tuple[int, bool]]) -> None:
    backlog = Backlog(100)
    written = 0
    blocks = []
    for size, read_after in writes:
        backlog.write(np.arange(written, written + size, dtype=np.float32))
        written += size
        if read_after and size:
            blocks.append(backlog.read())
    backlog.close()
    blocks += read_all(backlog)
    at = 0
    for block in blocks:
        assert block is not None
        at += block.lost
        np.testing.assert_array_equal(block.samples, np.arange(at, at + len(block.samples)))
        at += len(block.samples)
        assert block.overruns == (block.lost > 0)
    assert at == written


def test_the_driver_saying_that_it_lost_sound_is_an_overrun() -> None:
    backlog = Backlog()
    backlog.write(np.zeros(10, np.float32), overrun=True)
    backlog.write(np.zeros(10, np.float32))
    backlog.write(np.zeros(5, np.float32), overrun=True)
    backlog.close()
    (block,) = read_all(backlog)
    assert (len(block.samples), block.lost, block.overruns) == (25, 0, 2)


def test_a_read_of_nothing_returns_so_that_its_reader_can_stop() -> None:
    block = Backlog().read()
    assert block is not None
    assert len(block.samples) == 0


@given(data=st.binary(max_size=400), cuts=st.lists(st.integers(0, 400), max_size=8))
def test_pcm_is_the_same_however_a_pipe_cuts_it(data: bytes, cuts: list[int]) -> None:
    out, into = os.pipe()
    try:
        edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
        with Pcm(out) as source:
            blocks = []
            for start, end in itertools.pairwise(edges):
                if start < end:
                    os.write(into, data[start:end])
                    blocks.append(source.read())
            os.close(into)
            into = -1
            assert source.read() is None
    finally:
        os.close(out)
        if into >= 0:
            os.close(into)
    heard = joined([Block(np.empty(0, np.float32)), *(block for block in blocks if block is not None)])
    expected = np.frombuffer(data[: len(data) // 2 * 2], "<i2") / 32768
    np.testing.assert_array_equal(heard, expected.astype(np.float32))


def test_half_a_sample_at_the_end_is_left_out_and_said(caplog: pytest.LogCaptureFixture) -> None:
    out, into = os.pipe()
    os.write(into, b"\x00\x40\x00")
    os.close(into)
    with Pcm(out) as source:
        blocks = read_all(source)
    os.close(out)
    assert joined(blocks).tolist() == [0.5]
    assert "within a sample" in caplog.text


def test_a_silent_pipe_does_not_hold_its_reader() -> None:
    out, into = os.pipe()
    with Pcm(out) as source:
        block = source.read()
    os.close(out)
    os.close(into)
    assert block is not None
    assert len(block.samples) == 0


def test_sources_by_name(tmp_path: Path) -> None:
    assert isinstance(open_source("mic"), Microphone)
    assert isinstance(open_source("stdin"), Pcm)
    assert isinstance(open_source("file:a,b.wav,loop"), Live)
    assert isinstance(open_source("file:x.wav,fast,loop"), Fast)
    assert isinstance(open_source("file:fast"), Live)
    assert isinstance(open_source("dir:a,fast"), Fast)
    for address in ("127.0.0.1", "[::1]"):
        assert isinstance(open_source(f"ws:{address}:8661"), WebSocketPcm)


def test_a_path_may_hold_commas(short: tuple[Path, Sound]) -> None:
    path, sound = short
    with open_source(f"file:{path.rename(path.with_name('a,b,loop.wav'))},fast") as source:
        np.testing.assert_array_equal(joined(read_all(source)), sound)


def write(path: Path, sound: Sound) -> None:
    path.parent.mkdir(exist_ok=True)
    soundfile.write(path, sound, 16000, subtype="FLOAT")


def test_a_folder_is_all_its_recordings_by_name_with_a_pause_between(
    short: tuple[Path, Sound], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, sound = short
    folder = tmp_path / "recordings"
    write(folder / "b.wav", sound[:1000])
    write(folder / "a.wav", sound[1000:])
    write(folder / "in" / "c.wav", sound)
    (folder / "ab.flac").write_bytes(b"damaged")
    (folder / "notes.txt").write_text("no recording")
    silence = np.zeros(PAUSE, np.float32)
    expected = np.concatenate([sound[1000:], silence, sound[:1000], silence, sound])
    for source in (open_source(f"dir:{folder},fast"), Live(play_folder(folder), backlog=1 << 20)):
        with source:
            np.testing.assert_array_equal(joined(read_all(source)), expected)
    assert caplog.text.count("left out") == 2
    assert "ab.flac" in caplog.text
    with open_source(f"dir:{folder},fast,loop") as source:
        blocks = [source.read() for _ in range(14)]
    heard = joined([block for block in blocks if block is not None])
    assert len(heard) > 2 * len(expected)
    np.testing.assert_array_equal(heard, np.resize(np.concatenate([expected, silence]), len(heard)))


@pytest.mark.parametrize("flags", ["", ",fast", ",loop", ",fast,loop"])
def test_a_folder_without_a_recording_is_said(tmp_path: Path, flags: str) -> None:
    (tmp_path / "damaged.wav").write_bytes(b"x")
    for folder in (tmp_path, tmp_path / "none"):
        with open_source(f"dir:{folder}{flags}") as source, pytest.raises(DeviceError, match="FA-4238"):
            read_all(source)


def test_a_looped_folder_that_loses_its_recordings_says_so(short: tuple[Path, Sound], tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.wav", short[1])
    pieces = play_folder(tmp_path / "in", loop=True)(PERIOD)
    next(pieces)
    shutil.rmtree(tmp_path / "in")
    told: list[str] = []

    def rest() -> None:
        with pytest.raises(DeviceError) as caught:
            list(pieces)
        told.append(caught.value.code)

    player = threading.Thread(target=rest, daemon=True)  # it used to go round and round for ever
    player.start()
    player.join(30)
    assert told == ["FA-4238"]


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "file",
        "file:",
        "mic:",
        "stdin:x",
        "radio:4",
        "MIC",
        "dir:",
        "ws:",
        "ws:8661",
        "ws:localhost:8661",
        "ws:127.0.0.1:0",
        "ws:127.0.0.1:70000",
        "ws:999.1.1.1:80",
        "ws:0177.0.0.1:80",
        "ws:[:::]:80",
        "ws:[127]:80",
    ],
)
def test_what_names_no_source_is_refused(spec: str) -> None:
    with pytest.raises(DeviceError, match="FA-4203"):
        open_source(spec)


def test_a_microphone_that_is_unplugged_is_no_end_of_the_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    """With status 0 nobody would start the listener again."""

    class Stream:
        def __init__(self, **options: Any) -> None:
            self.close = self.unplug = options["finished_callback"]
            self.deliver = options["callback"]

        def start(self) -> None:
            pass

    library = SimpleNamespace(InputStream=Stream, PortAudioError=OSError)
    monkeypatch.setitem(sys.modules, "sounddevice", library)
    with Microphone() as microphone:
        sound = np.ones((640, 1), np.float32)
        microphone._stream.deliver(sound, 640, None, SimpleNamespace(input_overflow=False))
        microphone._stream.unplug()
        block = microphone.read()
        assert block is not None
        assert len(block.samples) == 640
        with pytest.raises(DeviceError, match="FA-4205"):
            microphone.read()


def portaudio_is_there() -> bool:
    try:
        import sounddevice  # noqa: F401
    except (ImportError, OSError):
        return False
    return True


@pytest.mark.skipif(portaudio_is_there(), reason="this machine can record")
def test_a_machine_that_cannot_record_says_what_to_install() -> None:
    with pytest.raises(DeviceError, match="FA-4204") as caught, Microphone():
        pass
    assert "pip install" in caught.value.remedy
    assert "libportaudio2" in caught.value.remedy
