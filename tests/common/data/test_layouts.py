"""Layouts of public data sets, in small and as they are."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from common.data.clips import Clip, Clips
from common.data.layouts import read_esc10, read_esc50, read_fsdd
from common.errors import DataError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def facts(clips: Clips) -> set[tuple[str, str, str | None, str | None, str | None]]:
    return {(clip.path.name, clip.label, clip.speaker, clip.group, clip.fold) for clip in clips}


def speech_commands(root: Path) -> Path:
    return touch(
        root,
        "yes/0a7c2a8d_nohash_0.wav",
        "yes/0a7c2a8d_nohash_1.wav",
        "no/1b4c9b89_nohash_0.wav",
        "no/33f60c62_nohash_0.wav",
        "_background_noise_/running_tap.wav",
    )


def test_speech_commands_without_lists(tmp_path: Path) -> None:
    assert facts(Clips.load(speech_commands(tmp_path))) == {
        ("0a7c2a8d_nohash_0.wav", "yes", "0a7c2a8d", "0a7c2a8d", None),
        ("0a7c2a8d_nohash_1.wav", "yes", "0a7c2a8d", "0a7c2a8d", None),
        ("1b4c9b89_nohash_0.wav", "no", "1b4c9b89", "1b4c9b89", None),
        ("33f60c62_nohash_0.wav", "no", "33f60c62", "33f60c62", None),
    }


def test_speech_commands_lists_become_folds(tmp_path: Path) -> None:
    write(speech_commands(tmp_path) / "validation_list.txt", "no/1b4c9b89_nohash_0.wav\n")
    write(tmp_path / "testing_list.txt", "no/33f60c62_nohash_0.wav\n")
    folds = {clip.speaker: clip.fold for clip in Clips.load(tmp_path)}
    assert folds == {"0a7c2a8d": "train", "1b4c9b89": "validation", "33f60c62": "test"}


def test_fsdd(tmp_path: Path) -> None:
    touch(tmp_path, "recordings/7_jackson_32.wav", "recordings/0_theo_0.wav", "recordings/notes.wav")
    assert facts(Clips.load(tmp_path)) == {
        ("7_jackson_32.wav", "7", "jackson", "jackson", None),
        ("0_theo_0.wav", "0", "theo", "theo", None),
    }


def test_esc50_and_its_esc10_part(tmp_path: Path) -> None:
    touch(tmp_path, "audio/1-100032-A-0.wav", "audio/5-9032-A-0.wav")
    write(
        tmp_path / "meta" / "esc50.csv",
        "filename,fold,target,category,esc10,src_file,take\n"
        "1-100032-A-0.wav,1,0,dog,True,100032,A\n"
        "5-9032-A-0.wav,5,36,vacuum_cleaner,False,9032,A\n",
    )
    dog = ("1-100032-A-0.wav", "dog", None, "100032", "1")
    assert facts(Clips.load(tmp_path)) == {dog, ("5-9032-A-0.wav", "vacuum_cleaner", None, "9032", "5")}
    assert facts(read_esc50(tmp_path, esc10=True)) == {dog}


def test_esc10_as_first_published(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "001 - Dog bark/1-100032-A.ogg",
        "001 - Dog bark/readme.ogg",
        "003 - Sea waves/5-28135-B.ogg",
        "other/1-1-A.ogg",
    )
    assert facts(Clips.load(tmp_path)) == {
        ("1-100032-A.ogg", "dog_bark", None, "100032", "1"),
        ("5-28135-B.ogg", "sea_waves", None, "28135", "5"),
    }


def test_urbansound8k(tmp_path: Path) -> None:
    touch(tmp_path, "audio/fold5/100032-3-0-0.wav", "audio/fold10/100648-1-0-0.wav")
    write(
        tmp_path / "metadata" / "UrbanSound8K.csv",
        "slice_file_name,fsID,start,end,salience,fold,classID,class\n"
        "100032-3-0-0.wav,100032,0.0,0.31,1,5,3,dog_bark\n"
        "100648-1-0-0.wav,100648,4.8,5.47,2,10,1,car_horn\n",
    )
    assert facts(Clips.load(tmp_path)) == {
        ("100032-3-0-0.wav", "dog_bark", None, "100032", "5"),
        ("100648-1-0-0.wav", "car_horn", None, "100648", "10"),
    }


def test_tables_of_data_sets_cannot_lead_out_either(tmp_path: Path) -> None:
    touch(tmp_path, "secret.wav", "audio/fold1/a.wav")
    write(
        tmp_path / "metadata" / "UrbanSound8K.csv",
        "slice_file_name,fsID,fold,class\n../../../secret.wav,1,1,siren\n",
    )
    with pytest.raises(DataError, match="FA-2004"):
        Clips.load(tmp_path)


def test_a_plain_folder_per_label_is_what_is_left(tmp_path: Path) -> None:
    touch(tmp_path, "yes/a.wav", "no/b.wav")
    assert Clips.load(tmp_path) == Clips(
        [Clip(tmp_path / "no" / "b.wav", "no"), Clip(tmp_path / "yes" / "a.wav", "yes")]
    )


def test_arabic_speech_commands(shared_data: Path) -> None:
    clips = Clips.load(shared_data / "arabic_speech_commands")
    assert len(clips) == 1080
    assert len(clips.labels) == 10
    assert len(clips.speakers) == 18
    assert set(Counter(clip.speaker for clip in clips).values()) == {60}


def test_fsdd_as_it_is_reads_the_same_with_and_without_its_table(shared_data: Path) -> None:
    clips = Clips.load(shared_data / "fsdd")
    assert len(clips) == 2000
    assert clips.labels == tuple("0123456789")
    assert facts(clips) == facts(read_fsdd(shared_data / "fsdd"))


def test_esc10_as_it_is_reads_the_same_with_and_without_its_table(shared_data: Path) -> None:
    clips = Clips.load(shared_data / "esc10")
    assert len(clips) == 318
    assert clips.speakers == ()
    assert {clip.fold for clip in clips} == {"1", "2", "3", "4"}
    assert facts(clips) == facts(read_esc10(shared_data / "esc10"))
