"""Collections of clips: a folder per label, and a table."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from common.data.clips import Clip, Clips, Imported, imported_from, imported_name
from common.errors import DataError

DIGEST = "0123456789abcdef"
EVENT = "fedcba9876543210"
STRETCH = "00112233445566aa"


def touch(root: Path, *names: str) -> Path:
    """Empty files: a collection never opens a sound file, so these do."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def table(root: Path, text: str, encoding: str = "utf-8") -> Path:
    path = root / "manifest.csv"
    path.write_text(text, encoding=encoding)
    return path


def code_of(action: Callable[[], object]) -> str:
    with pytest.raises(DataError) as caught:
        action()
    return caught.value.code


def test_a_folder_per_label_gives_labels_in_sorted_order(tmp_path: Path) -> None:
    touch(tmp_path, "yes/b.wav", "yes/a.FLAC", "no/c.mp3", "_silence_/d.ogg")
    clips = Clips.from_folder(tmp_path)
    assert [(clip.label, clip.path.name) for clip in clips] == [
        ("_silence_", "d.ogg"),
        ("no", "c.mp3"),
        ("yes", "a.FLAC"),
        ("yes", "b.wav"),
    ]
    assert clips.labels == ("_silence_", "no", "yes")


def test_what_is_no_clip_is_left_out(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "yes/a.wav",
        "yes/notes.txt",
        "yes/.a.wav",
        "yes/deeper/b.wav",
        "README.wav",
        ".hidden/a.wav",
        "_background_noise_/hum.wav",
        "background_noise/hum.wav",
    )
    (tmp_path / "yes" / "folder.wav").mkdir()
    assert [clip.path for clip in Clips.from_folder(tmp_path)] == [tmp_path / "yes" / "a.wav"]


def test_imported_names_give_the_speaker_back_and_other_names_give_none(tmp_path: Path) -> None:
    touch(
        tmp_path,
        f"yes/anna_{DIGEST}.flac",
        f"yes/anna_maria_{DIGEST}.flac",
        f"yes/-_{DIGEST}.flac",
        "yes/anna_1.flac",
    )
    speakers = {clip.path.name: clip.speaker for clip in Clips.from_folder(tmp_path)}
    assert speakers == {
        f"anna_{DIGEST}.flac": "anna",
        f"anna_maria_{DIGEST}.flac": "anna_maria",
        f"-_{DIGEST}.flac": None,
        "anna_1.flac": None,
    }


@pytest.mark.parametrize("speaker", [None, "anna", "a_b", "Zoë", "00000001", "x_0123456789abcdef"])
@pytest.mark.parametrize(("event", "stretch"), [(None, None), (EVENT, EVENT), (EVENT, STRETCH)])
def test_an_imported_name_reads_back(speaker: str | None, event: str | None, stretch: str | None) -> None:
    imported = Imported(speaker, DIGEST, event, stretch)
    assert imported_from(imported_name(imported)) == imported


def test_the_sounds_of_events_that_overlap_are_one_recording(tmp_path: Path) -> None:
    for speaker, event, stretch in (
        (None, EVENT, STRETCH),
        ("anna", STRETCH, STRETCH),
        ("ben", EVENT, EVENT),
    ):
        touch(tmp_path, f"yes/{imported_name(Imported(speaker, DIGEST, event, stretch))}")
    clips = Clips.from_folder(tmp_path)
    found = [(clip.speaker, clip.group) for clip in clips]
    assert found == [(None, STRETCH), ("anna", STRETCH), ("ben", EVENT)]


def test_a_table_gives_speakers_recordings_and_folds(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav", "sub/b.wav", "c.wav", "d.wav", "e.wav")
    path = table(
        tmp_path,
        "path,label,speaker,fold,freesound_id\n"
        "a.wav,yes,anna,,\n"
        "sub/b.wav,no,-,2,77\n"
        "c.wav,no,,3,\n"
        "d.wav,no,ben,3,78\n"
        "e.wav,no,,,\n",
        encoding="utf-8-sig",
    )
    known = [(clip.path.name, clip.speaker, clip.group, clip.fold) for clip in Clips.from_manifest(path)]
    assert known == [
        ("a.wav", "anna", "anna", None),
        ("b.wav", None, "77", "2"),
        ("c.wav", None, "3", "3"),
        ("d.wav", "ben", "78", "3"),
        ("e.wav", None, None, None),
    ]


def test_paths_of_a_table_are_relative_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "set/a.wav")
    table(tmp_path / "set", "path,label\na.wav,yes\n")
    monkeypatch.chdir(tmp_path)
    assert Clips.from_manifest(Path("set/manifest.csv"))[0].path.is_file()


@pytest.mark.parametrize(
    "name", ["../secret.wav", "sub/../../secret.wav", "{root}/secret.wav", "link/secret.wav"]
)
def test_a_table_cannot_lead_out_of_its_folder(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "secret.wav", "set/sub/a.wav")
    (tmp_path / "set" / "link").symlink_to(tmp_path)
    path = table(tmp_path / "set", f"path,label\n{name.format(root=tmp_path)},yes\n")
    assert code_of(lambda: Clips.from_manifest(path)) == "FA-2004"


def test_a_row_without_its_file_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav")
    path = table(tmp_path, "path,label\na.wav,yes\ngone.wav,yes\n")
    with pytest.raises(DataError, match=r"FA-2005.*gone\.wav"):
        Clips.from_manifest(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "path,speaker\na.wav,anna\n",
        "label\nyes\n",
        "path,label\na.wav\n",
        "path,label\na.wav,yes,more\n",
        'path,label\n"a.wav"x,yes\n',
    ],
)
def test_a_faulty_table_is_refused(tmp_path: Path, text: str) -> None:
    touch(tmp_path, "a.wav")
    assert code_of(lambda: Clips.from_manifest(table(tmp_path, text))) == "FA-2003"


def test_a_table_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "manifest.csv"
    path.write_bytes(b"path,label\n\xff\xfe\x00,yes\n")
    assert code_of(lambda: Clips.from_manifest(path)) == "FA-2003"


@pytest.mark.parametrize(
    "label", ["", "..", ".hidden", "a/b", "a\\b", "x" * 65, "background_noise", "a\x00b"]
)
def test_a_label_that_could_lead_astray_is_refused(label: str) -> None:
    assert code_of(lambda: Clip(Path("a.wav"), label)) == "FA-2006"
    assert code_of(lambda: Clip(Path("a.wav"), "yes", speaker=label)) == "FA-2006"


def test_a_file_name_that_is_not_unicode_is_refused_and_named(tmp_path: Path) -> None:
    touch(tmp_path, "yes/" + os.fsdecode(b"caf\xe9.wav"))
    with pytest.raises(DataError, match=r"FA-2006.*caf\\udce9\.wav"):
        Clips.from_folder(tmp_path)


def test_missing_and_empty_collections_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "yes").mkdir()
    assert code_of(lambda: Clips.from_folder(tmp_path / "gone")) == "FA-2001"
    assert code_of(lambda: Clips.from_manifest(tmp_path / "gone.csv")) == "FA-2001"
    assert code_of(lambda: Clips.load(tmp_path / "gone")) == "FA-2001"
    assert code_of(lambda: Clips.from_folder(tmp_path)) == "FA-2002"
    assert code_of(lambda: Clips.load(tmp_path)) == "FA-2002"
    assert code_of(lambda: Clips.from_manifest(table(tmp_path, "path,label\n"))) == "FA-2002"


def test_a_collection_is_a_value() -> None:
    a, b, c = (Clip(Path(f"{name}.wav"), "yes", name) for name in "abc")
    clips = Clips([c, a, b])
    assert clips == Clips((c, a, b))
    assert clips != Clips([a, b, c])
    assert hash(clips) == hash(Clips([c, a, b]))
    assert clips[1:] == Clips([a, b])
    assert clips[-1] is b
    assert clips.select([2, 0]) == Clips([b, c])
    assert clips.filter(lambda clip: clip.speaker != "a") == Clips([c, b])
    assert clips.speakers == ("a", "b", "c")
