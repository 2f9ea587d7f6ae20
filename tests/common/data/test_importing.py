"""Importing clips into a device's own folder."""

from __future__ import annotations

import io
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile

from common.audio.reading import read_audio
from common.data.clips import Clip, Clips
from common.data.importing import import_clips
from common.files import StorageError


def write_sound(
    path: Path, seconds: float = 0.5, seed: int = 0, rate: int = 16_000, channels: int = 1
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(seed).uniform(-0.2, 0.2, (round(seconds * rate), channels))
    soundfile.write(path, samples, rate, subtype="PCM_16" if path.suffix != ".ogg" else None)
    return path


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """A disk that is full, as far as a write can tell."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_any_format_becomes_16_khz_mono_16_bit_flac(tmp_path: Path) -> None:
    sources = [
        Clip(write_sound(tmp_path / "a.wav", rate=44_100, channels=2), "yes", "anna"),
        Clip(write_sound(tmp_path / "b.ogg", rate=8_000, seed=1), "no"),
    ]
    report = import_clips(Clips(sources), tmp_path / "clips")
    assert (report.imported, report.duplicates, report.skipped) == (2, 0, ())
    imported = Clips.from_folder(tmp_path / "clips")
    assert [(clip.label, clip.speaker) for clip in imported] == [("no", None), ("yes", "anna")]
    for clip, source in zip(imported, reversed(sources), strict=True):
        info = soundfile.info(clip.path)
        assert (info.format, info.subtype, info.samplerate, info.channels) == ("FLAC", "PCM_16", 16_000, 1)
        assert np.abs(read_audio(clip.path) - read_audio(source.path)).max() <= 0.5 / 32_768 + 1e-7


def test_samples_of_a_16_bit_file_are_kept_to_the_bit(tmp_path: Path) -> None:
    extremes = np.array([-32_768, -32_767, -1, 0, 1, 32_766, 32_767] * 100, dtype=np.int16)
    soundfile.write(tmp_path / "a.wav", extremes, 16_000)
    import_clips(Clips([Clip(tmp_path / "a.wav", "yes")]), tmp_path / "clips")
    samples, _ = soundfile.read(Clips.from_folder(tmp_path / "clips")[0].path, dtype="int16")
    assert np.array_equal(samples, extremes)


def test_the_same_sound_is_imported_once_whatever_its_name_and_format(tmp_path: Path) -> None:
    first = write_sound(tmp_path / "a.wav")
    samples, rate = soundfile.read(first, dtype="int16")
    soundfile.write(tmp_path / "b.flac", samples, rate)
    source = Clips([Clip(first, "yes", "anna"), Clip(tmp_path / "b.flac", "yes")])
    report = import_clips(source, tmp_path / "clips")
    assert (report.imported, report.duplicates) == (1, 1)


def test_the_same_sound_under_another_label_is_skipped_and_named(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.wav")
    report = import_clips(Clips([Clip(path, "yes"), Clip(path, "no")]), tmp_path / "clips")
    assert (report.imported, report.duplicates) == (1, 0)
    [(name, reason)] = report.skipped
    assert name == str(path)
    assert "'yes'" in reason


def test_a_second_import_adds_and_changes_nothing(tmp_path: Path) -> None:
    source = Clips(Clip(write_sound(tmp_path / f"{n}.wav", seed=n), "yes", "anna") for n in range(5))
    import_clips(source, tmp_path / "clips")
    before = everything(tmp_path / "clips")
    report = import_clips(source, tmp_path / "clips")
    assert (report.imported, report.duplicates) == (0, 5)
    assert everything(tmp_path / "clips") == before
    again = import_clips(Clips.from_folder(tmp_path / "clips"), tmp_path / "clips")
    assert (again.imported, again.duplicates) == (0, 5)


def test_damaged_files_are_skipped_and_named(tmp_path: Path) -> None:
    good = write_sound(tmp_path / "good.wav")
    (tmp_path / "text.wav").write_text("not sound")
    (tmp_path / "empty.wav").touch()
    names = ["text.wav", "empty.wav", "gone.wav", "good.wav"]
    steps: list[tuple[int, int]] = []
    report = import_clips(
        Clips(Clip(tmp_path / name, "yes") for name in names),
        tmp_path / "clips",
        progress=lambda done, total: steps.append((done, total)),
    )
    assert report.imported == 1
    assert [name for name, _ in report.skipped] == [str(tmp_path / name) for name in names[:3]]
    assert all(reason for _, reason in report.skipped)
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert len(read_audio(Clips.from_folder(tmp_path / "clips")[0].path)) == len(read_audio(good))


def test_a_long_file_stays_long(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "long.wav", seconds=61)
    import_clips(Clips([Clip(path, "rain")]), tmp_path / "clips")
    assert soundfile.info(Clips.from_folder(tmp_path / "clips")[0].path).frames == 61 * 16_000


def test_a_full_disk_stops_the_import_and_the_next_one_goes_on(tmp_path: Path) -> None:
    sources = [write_sound(tmp_path / "0.wav", 0.2), write_sound(tmp_path / "1.wav", 5.0, seed=1)]
    clips = Clips(Clip(path, "yes") for path in sources)
    with files_no_larger_than(50_000), pytest.raises(StorageError, match="FA-8001"):
        import_clips(clips, tmp_path / "clips")
    whole = everything(tmp_path / "clips")
    assert len(whole) == 1
    assert all(soundfile.info(io.BytesIO(data)).frames == 3_200 for data in whole.values())
    report = import_clips(clips, tmp_path / "clips")
    assert (report.imported, report.duplicates) == (1, 1)


def test_a_destination_that_cannot_be_a_folder_is_a_storage_error(tmp_path: Path) -> None:
    clips = Clips([Clip(write_sound(tmp_path / "a.wav"), "yes")])
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="FA-8001"):
        import_clips(clips, tmp_path / "file" / "clips")


def test_imported_clips_are_private(tmp_path: Path) -> None:
    import_clips(Clips([Clip(write_sound(tmp_path / "a.wav"), "yes")]), tmp_path / "clips")
    for path in (tmp_path / "clips", *(tmp_path / "clips").rglob("*")):
        assert path.stat().st_mode & 0o077 == 0


def test_real_recordings_keep_their_samples_and_speakers(tmp_path: Path, shared_data: Path) -> None:
    clips = Clips.load(shared_data / "arabic_speech_commands")[::27]
    report = import_clips(clips, tmp_path / "clips")
    assert (report.imported, report.skipped) == (40, ())
    imported = Clips.load(tmp_path / "clips")
    assert (imported.labels, imported.speakers) == (clips.labels, clips.speakers)
    before, after = (sorted(read_audio(clip.path).tobytes() for clip in part) for part in (clips, imported))
    assert before == after


def test_originals_at_other_rates_are_imported(tmp_path: Path, shared_data: Path) -> None:
    folders = (
        shared_data / "fsdd" / "original_samples" / "recordings",
        shared_data / "esc10" / "original_samples",
    )
    for folder in folders:
        for path in folder.rglob("*.*"):
            if path.suffix in {".wav", ".ogg"}:
                target = tmp_path / "source" / folder.parent.name
                target.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)
    source = Clips.from_folder(tmp_path / "source")
    report = import_clips(source, tmp_path / "clips")
    assert (report.imported, report.skipped) == (15, ())
    seconds = sorted(soundfile.info(clip.path).duration for clip in source)
    imported = sorted(soundfile.info(clip.path).duration for clip in Clips.load(tmp_path / "clips"))
    assert np.allclose(seconds, imported, atol=1e-4)
