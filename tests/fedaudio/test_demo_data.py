"""What the demo makes of a collection before anything is started."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import soundfile

from common.data.synthetic.corpus import make_corpus
from common.errors import DataError
from fedaudio.demo.data import DemoData, prepare, write_stream

SPEAKERS = {"v000", "v001", "v002"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three voices, two words and background, two takes."""
    folder = tmp_path_factory.mktemp("corpus")
    make_corpus(folder, kind="words", voices=3, labels=2, takes=2, seed=4)
    return folder


@pytest.fixture
def corpus(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "corpus")


def prepared(corpus: Path, devices: int = 2, unseen: str = "v001") -> DemoData:
    return prepare(
        corpus, corpus.parent, devices=devices, partition="speaker", unseen=[unseen] if unseen else [], seed=0
    )


def cut_off(file: Path) -> Path:
    """`file` with a header that promises more than follows."""
    file.write_bytes(file.read_bytes()[:2000])
    assert soundfile.info(file).frames == 16_000
    return file


def test_nothing_is_left_out_of_a_whole_collection(corpus: Path) -> None:
    data = prepared(corpus)
    assert data.left_out == ()
    assert sum(map(len, data.devices)) + len(data.unseen) == 18
    assert set(data.speakers.train) | set(data.speakers.unseen) == SPEAKERS
    assert data.clip_seconds == 1.0


def test_damaged_recordings_have_no_part_and_are_named(corpus: Path, tmp_path: Path) -> None:
    files = sorted(corpus.glob("*/v000_00.flac"))
    cut_off(files[0])
    files[1].write_bytes(b"no sound at all")
    files[2].write_bytes(b"")
    heard_by_nobody = cut_off(next(corpus.glob("*/v001_01.flac")))

    data = prepared(corpus)
    damaged = {*map(str, files), str(heard_by_nobody)}
    assert {file for file, _ in data.left_out} == damaged
    assert all(reason for _, reason in data.left_out)
    used = [clip for part in (*data.devices, data.unseen) for clip in part]
    assert len(used) == 14
    assert not damaged & {str(clip.path) for clip in used}
    assert data.clip_seconds == 1.0

    write_stream(data.unseen, tmp_path / "stream.wav", seed=0)
    assert soundfile.info(tmp_path / "stream.wav").duration == 60.0


def test_a_speaker_whose_recordings_are_all_damaged_counts_for_nothing(corpus: Path) -> None:
    for file in corpus.glob("*/v002_*.flac"):
        cut_off(file)
    data = prepared(corpus, devices=1)
    assert (data.speakers.train, data.speakers.unseen) == (("v000",), ("v001",))
    with pytest.raises(DataError, match="FA-2010"):
        prepared(corpus, devices=2)
    with pytest.raises(DataError, match="FA-2009"):
        prepared(corpus, devices=1, unseen="v002")


def test_a_collection_of_damaged_recordings_is_explained(corpus: Path) -> None:
    for file in corpus.glob("*/*.flac"):
        cut_off(file)
    with pytest.raises(DataError, match=r"FA-2007: Of 18 clips none can be read.*is damaged"):
        prepared(corpus)


def test_textures_are_a_corpus_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedaudio.demo.data.TAKES", 1)
    data = prepare("textures", tmp_path, devices=2, partition="speaker", unseen=[], seed=0)
    assert len(data.labels) == 8
    assert {"rain", "wind"} <= set(data.labels)
    assert [len(part) for part in (data.speakers.train, data.speakers.validation, data.speakers.unseen)] == [
        17,
        4,
        5,
    ]
