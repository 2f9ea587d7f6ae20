"""Labelled sound files, as a value. Nothing here opens a sound file."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, overload

from common.errors import DataError

AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3"})
NOISE_FOLDERS = ("_background_noise_", "background_noise")
"""Folders beside the clips that hold noise to mix in, never a label; the first is Speech Commands' name."""

UNKNOWN_SPEAKER = "-"
_IMPORTED = re.compile(
    r"(?P<speaker>.+)_(?P<digest>[0-9a-f]{16})"
    r"(?:_in-(?P<stretch>[0-9a-f]{16})_event-(?P<event>[0-9a-f]{16}))?\.flac"
)
# A label or a speaker becomes part of a path, so it must not lead out of the folder or hide in it.
_NAME = re.compile(r"(?!\.)[^\x00-\x1f\x7f/\\]{1,64}")


@dataclass(frozen=True)
class Clip:
    """One sound file and what is known of it. The file may hold any length of sound.

    Args:
        path: the sound file.
        label: what is heard; 1 to 64 characters, no slash, no leading dot.
        speaker: who speaks, if known; the same characters as a label.
        group: recording the clip was cut from (the speaker or the fold where that is not known); clips of one
            group sound alike beyond their label, so a fair test keeps them together.
        fold: part of the data set's official split, if it has one.

    Raises:
        DataError: FA-2006, the label or the speaker cannot be a name, or the path is not Unicode.
    """

    path: Path
    label: str
    speaker: str | None = None
    group: str | None = None
    fold: str | None = None

    def __post_init__(self) -> None:
        for what, name in (("label", self.label), ("speaker", self.speaker)):
            if name is not None and (not _NAME.fullmatch(name) or name in NOISE_FOLDERS):
                raise DataError(
                    "FA-2006",
                    f"{self.path} has the {what} {name!r}, which cannot be a name.",
                    "Use 1 to 64 characters without slashes, not starting with a dot.",
                )
        # Paths go into tables and reports, which are UTF-8; Linux allows names that are not.
        if any("\ud800" <= character <= "\udfff" for character in str(self.path)):
            raise DataError(
                "FA-2006", f"The file name {str(self.path)!a} is not Unicode.", "Rename the file."
            )


class Clips(Sequence[Clip]):
    """A frozen collection of clips in a fixed order."""

    def __init__(self, clips: Iterable[Clip] = ()) -> None:
        self._clips = tuple(clips)

    @classmethod
    def load(cls, path: Path) -> Clips:
        """Read the collection at `path` in whichever known layout it is (see `common.data.layouts`).

        Raises:
            DataError: FA-2001 no such path, FA-2002 no clips in it, FA-2003..FA-2006 a faulty table.
        """
        from common.data.layouts import read_layout  # the layouts build Clips, so they import this file

        return read_layout(path)

    @classmethod
    def from_folder(cls, path: Path) -> Clips:
        """Read a folder per label; names written by `import_clips` give the speaker back.

        Raises:
            DataError: FA-2001 no such folder, FA-2002 no clips in it.
        """
        return cls.found(path, (_clip_in_folder(folder, file) for folder, file in labelled_files(path)))

    @classmethod
    def from_manifest(cls, table: Path) -> Clips:
        """Read a CSV with the columns path and label; also used are speaker, fold, and group or freesound_id.

        Paths are relative to the folder of `table` and must stay inside it.

        Raises:
            DataError: FA-2001 no such file, FA-2002 no rows, FA-2003 not such a CSV, FA-2004 a path that
                leads out of the folder, FA-2005 a missing file, FA-2006 a label that cannot be a name.
        """
        rows = read_table(table, ("path", "label"))
        return cls.found(table, (_clip_in_row(table.parent, row) for row in rows))

    @classmethod
    def found(cls, path: Path, clips: Iterable[Clip]) -> Clips:
        """Collect what was found at `path`.

        Raises:
            DataError: FA-2002, nothing was.
        """
        collection = cls(clips)
        if not collection:
            raise DataError(
                "FA-2002",
                f"There are no clips in {path}.",
                "Put sound files into it, in one folder per label, or import some.",
            )
        return collection

    @property
    def labels(self) -> tuple[str, ...]:
        """Distinct labels, sorted."""
        return tuple(sorted({clip.label for clip in self}))

    @property
    def speakers(self) -> tuple[str, ...]:
        """Distinct known speakers, sorted."""
        return tuple(sorted({clip.speaker for clip in self if clip.speaker is not None}))

    def filter(self, predicate: Callable[[Clip], bool]) -> Clips:
        """Clips for which `predicate` holds, in the same order; there may be none."""
        return Clips(clip for clip in self if predicate(clip))

    def select(self, indices: Iterable[int]) -> Clips:
        """Clips at `indices`, in that order."""
        return Clips(self._clips[index] for index in indices)

    def __len__(self) -> int:
        return len(self._clips)

    def __iter__(self) -> Iterator[Clip]:
        return iter(self._clips)

    @overload
    def __getitem__(self, index: int) -> Clip: ...
    @overload
    def __getitem__(self, index: slice) -> Clips: ...
    def __getitem__(self, index: int | slice) -> Clip | Clips:
        return Clips(self._clips[index]) if isinstance(index, slice) else self._clips[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Clips) and self._clips == other._clips

    def __hash__(self) -> int:
        return hash(self._clips)

    def __repr__(self) -> str:
        return f"Clips({len(self)} clips, {len(self.labels)} labels, {len(self.speakers)} speakers)"


def sound_files(paths: Iterable[Path]) -> list[Path]:
    """The sound files of `paths`, by their suffix, sorted; hidden ones (unfinished writes) are left out."""
    return sorted(
        file
        for file in paths
        if file.suffix.lower() in AUDIO_SUFFIXES and not file.name.startswith(".") and file.is_file()
    )


def background_files(path: Path) -> list[Path]:
    """Noise that comes with the collection at `path`: what is in `NOISE_FOLDERS` beside its clips.

    Raises:
        DataError: FA-2006, a file name is not Unicode.
    """
    root = path.parent if path.is_file() else path
    folders = [root / name for name in NOISE_FOLDERS if (root / name).is_dir()]
    return [Clip(file, "noise").path for folder in folders for file in sound_files(folder.iterdir())]


def labelled_files(path: Path) -> Iterator[tuple[Path, Path]]:
    """Each sound file of a folder-per-label tree with its label folder, sorted; noise is left out.

    Raises:
        DataError: FA-2001, no such folder.
    """
    if not path.is_dir():
        raise DataError("FA-2001", f"There is no folder {path}.", "Check the path.")
    for folder in sorted(path.iterdir()):
        if folder.is_dir() and folder.name not in NOISE_FOLDERS and not folder.name.startswith("."):
            for file in sound_files(folder.iterdir()):
                yield folder, file


class Imported(NamedTuple):
    """What the file name of an imported clip tells.

    Attributes:
        speaker: if known.
        digest: 16 hexadecimal digits of the samples' digest.
        event: the id, 16 hexadecimal digits, of the event the clip is the sound of, if it is of one.
        stretch: 16 hexadecimal digits that the sounds of events which overlap have in common.
    """

    speaker: str | None
    digest: str
    event: str | None = None
    stretch: str | None = None


def imported_name(imported: Imported) -> str:
    """File name of an imported clip; `imported_from` reads it."""
    event = f"_in-{imported.stretch}_event-{imported.event}" if imported.event else ""
    return f"{imported.speaker or UNKNOWN_SPEAKER}_{imported.digest}{event}.flac"


def imported_from(name: str) -> Imported | None:
    """What a name made by `imported_name` tells, or None for any other name."""
    match = _IMPORTED.fullmatch(name)
    return match and Imported(_known(match["speaker"]), match["digest"], match["event"], match["stretch"])


def read_table(table: Path, columns: Collection[str]) -> list[dict[str, str]]:
    """Rows of a CSV file with a header that has at least `columns`.

    Raises:
        DataError: FA-2001 no such file, FA-2003 it is not UTF-8 text or lacks a column or a cell of these.
    """
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            missing = sorted(set(columns) - set(reader.fieldnames or ()))
            if missing:
                raise _bad_table(table, f"has no column {' and no column '.join(missing)}")
            rows = []
            for row in reader:
                if None in row or any(row[column] is None for column in columns):
                    raise _bad_table(table, f"has more or fewer cells in line {reader.line_num} than columns")
                rows.append({name: cell or "" for name, cell in row.items()})
            return rows
    except FileNotFoundError as error:
        raise DataError("FA-2001", f"There is no file {table}.", "Check the path.") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _bad_table(table, f"could not be read: {error}") from error


def file_inside(root: Path, name: str) -> Path:
    """The existing file `name` (a path relative to `root`), which must not lead out of `root`.

    Raises:
        DataError: FA-2004 it leads out, FA-2005 there is no such file.
    """
    path = root / name
    if "\0" in name or not path.resolve().is_relative_to(root.resolve()):
        raise DataError(
            "FA-2004",
            f"The table in {root} names {name!r}, which is outside that folder.",
            "Use paths relative to the table, to files below its folder.",
        )
    if not path.is_file():
        raise DataError(
            "FA-2005",
            f"The table in {root} names {name!r}, which is not there.",
            "Fetch the missing file or remove its row.",
        )
    return path


def _clip_in_folder(folder: Path, file: Path) -> Clip:
    imported = imported_from(file.name)
    if imported is None:
        return Clip(file, folder.name)
    # A stretch of sound is a recording of its own, whoever is heard in it.
    return Clip(file, folder.name, imported.speaker, group=imported.stretch or imported.speaker)


def _clip_in_row(root: Path, row: Mapping[str, str]) -> Clip:
    speaker, fold = _known(row.get("speaker")), row.get("fold") or None
    recording = row.get("group") or row.get("freesound_id")
    return Clip(file_inside(root, row["path"]), row["label"], speaker, recording or speaker or fold, fold)


def _known(speaker: str | None) -> str | None:
    return None if speaker in {None, "", UNKNOWN_SPEAKER} else speaker


def _bad_table(table: Path, fault: str) -> DataError:
    return DataError(
        "FA-2003", f"{table} {fault}.", "Give a CSV file in UTF-8 with a header and these columns filled in."
    )
