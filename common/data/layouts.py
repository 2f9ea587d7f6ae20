"""Readers for the layouts public data sets come in: a folder becomes `Clips`, and no sound file is opened."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from common.data.clips import Clip, Clips, file_inside, labelled_files, read_table, sound_files
from common.errors import DataError

_DIGIT = re.compile(r"(?P<digit>\d)_(?P<speaker>[^_]+)_(?P<take>\d+)")
_NOHASH = re.compile(r"(?P<speaker>.+)_nohash_\d+")
_ESC10_FOLDER = re.compile(r"\d{3} - (?P<name>.+)")
_ESC10_FILE = re.compile(r"(?P<fold>\d+)-(?P<recording>\d+)-[A-Z]+")
_SPEECH_COMMANDS_LISTS = {"validation": "validation_list.txt", "test": "testing_list.txt"}


def read_speech_commands(root: Path) -> Clips:
    """Speech Commands (Warden 2018): `<word>/<speaker>_nohash_<n>.wav`.

    Where the official lists are there, `fold` is "train", "validation" or "test".
    """
    listed = {
        line.strip(): fold
        for fold, name in _SPEECH_COMMANDS_LISTS.items()
        if (root / name).is_file()
        for line in (root / name).read_text(encoding="utf-8", errors="replace").splitlines()
    }

    def clips() -> Iterator[Clip]:
        for folder, file in labelled_files(root):
            match = _NOHASH.fullmatch(file.stem)
            speaker = match["speaker"] if match else None
            fold = listed.get(f"{folder.name}/{file.name}", "train") if listed else None
            yield Clip(file, folder.name, speaker, speaker, fold)

    return Clips.found(root, clips())


def read_fsdd(root: Path) -> Clips:
    """Free Spoken Digit Dataset: `recordings/<digit>_<speaker>_<take>.wav`."""
    named = ((file, _DIGIT.fullmatch(file.stem)) for file in sound_files((root / "recordings").iterdir()))
    return Clips.found(
        root,
        (Clip(file, match["digit"], match["speaker"], match["speaker"]) for file, match in named if match),
    )


def read_esc50(root: Path, *, esc10: bool = False) -> Clips:
    """ESC-50 (Piczak 2015): `meta/esc50.csv` and `audio/`; with `esc10`, only the ten classes of ESC-10."""
    rows = read_table(root / "meta" / "esc50.csv", ("filename", "fold", "category", "esc10", "src_file"))
    return Clips.found(
        root,
        (
            Clip(
                file_inside(root / "audio", row["filename"]),
                row["category"],
                group=row["src_file"],
                fold=row["fold"],
            )
            for row in rows
            if not esc10 or row["esc10"] == "True"
        ),
    )


def read_esc10(root: Path) -> Clips:
    """ESC-10 as first published: `<number> - <class>/<fold>-<Freesound id>-<take>.ogg`.

    Labels are those of ESC-50: "Dog bark" is "dog_bark".
    """

    def clips() -> Iterator[Clip]:
        for folder, file in labelled_files(root):
            label, name = _ESC10_FOLDER.fullmatch(folder.name), _ESC10_FILE.fullmatch(file.stem)
            if label and name:
                text = label["name"].lower().replace(" ", "_")
                yield Clip(file, text, group=name["recording"], fold=name["fold"])

    return Clips.found(root, clips())


def read_urbansound8k(root: Path) -> Clips:
    """UrbanSound8K (Salamon 2014): `metadata/UrbanSound8K.csv` and `audio/fold<n>/`."""
    table = root / "metadata" / "UrbanSound8K.csv"
    rows = read_table(table, ("slice_file_name", "fsID", "fold", "class"))
    return Clips.found(
        root,
        (
            Clip(
                file_inside(root / "audio", f"fold{row['fold']}/{row['slice_file_name']}"),
                row["class"],
                group=row["fsID"],
                fold=row["fold"],
            )
            for row in rows
        ),
    )


_LAYOUTS: tuple[tuple[str, Callable[[Path], Clips]], ...] = (
    ("manifest.csv", lambda root: Clips.from_manifest(root / "manifest.csv")),
    ("meta/esc50.csv", read_esc50),
    ("metadata/UrbanSound8K.csv", read_urbansound8k),
    ("recordings/[0-9]_*_*.*", read_fsdd),
    ("[0-9][0-9][0-9] - */", read_esc10),
    ("*/*_nohash_*", read_speech_commands),
)
"""What gives a layout away, and its reader; the first that fits is taken."""


def read_layout(path: Path) -> Clips:
    """Read `path`: a manifest, or a folder in a known layout or with a folder per label.

    Raises:
        DataError: FA-2001 no such path, FA-2002 no clips in it, FA-2003..FA-2006 a faulty table.
    """
    if path.is_file():
        return Clips.from_manifest(path)
    if not path.is_dir():
        raise DataError("FA-2001", f"There is no {path}.", "Check the path.")
    readers = (reader for sign, reader in _LAYOUTS if any(path.glob(sign)))
    return next(readers, Clips.from_folder)(path)
