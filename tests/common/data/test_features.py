"""Clips to windows of energies, and the cache that spares reading them again."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.audio.batch import BatchFrontEnd
from common.audio.front_end import LogMel, Mfcc, Psd
from common.audio.reading import read_audio
from common.data.clips import Clip, Clips
from common.data.features import FeatureSet, load_background, load_features
from common.errors import DataError
from common.files import StorageError
from common.task import Task

TASK = Task(labels=("no", "yes"), clip_seconds=0.5)
WINDOW = TASK.clip_samples


def write_noise(path: Path, samples: int, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(seed).uniform(-0.5, 0.5, samples), 16_000, subtype="PCM_16")
    return path


def collection(root: Path, count: int = 4) -> Clips:
    """`count` clips of a window each, each with its own noise."""
    labels = [TASK.labels[n % 2] for n in range(count)]
    return Clips(
        Clip(write_noise(root / label / f"{n}.wav", WINDOW, seed=n), label) for n, label in enumerate(labels)
    )


def garble(path: Path) -> None:
    """Replace the content by what is no sound, so that only size and time of change are as before."""
    status = path.stat()
    path.write_bytes(b"?" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def touch_later(path: Path) -> None:
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000_000))


def energies_of(samples: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> torch.Tensor:
    return BatchFrontEnd(TASK.front_end).energies(torch.from_numpy(samples)[None])[0]


def same(first: FeatureSet, second: FeatureSet) -> bool:
    return (
        np.array_equal(first.energies, second.energies)
        and np.array_equal(first.labels, second.labels)
        and np.array_equal(first.clip_index, second.clip_index)
        and first.skipped == second.skipped
    )


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """A disk that is full, as far as a write can tell."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("front_end", [LogMel(), Mfcc(), Psd()])
def test_each_window_is_the_front_ends_view_of_its_clip(
    tmp_path: Path, front_end: LogMel | Mfcc | Psd
) -> None:
    task = TASK.model_copy(update={"front_end": front_end})
    clips = collection(tmp_path)
    data = load_features(clips, task, tmp_path / "cache")
    assert data.energies.shape == (4, task.clip_frames, front_end.bands)
    assert data.energies.dtype == np.float32
    assert data.labels.tolist() == [0, 1, 0, 1]
    assert data.clip_index.tolist() == [0, 1, 2, 3]
    assert data.skipped == ()
    for clip, energies in zip(clips, data.energies, strict=True):
        waveform = torch.from_numpy(read_audio(clip.path))[None]
        expected = BatchFrontEnd(front_end).energies(waveform)[0].numpy()
        assert np.allclose(energies, expected, rtol=1e-5, atol=1e-7 * expected.max())


@given(st.integers(1, 200_000))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_clip_gives_consecutive_windows_and_a_last_one_at_least_half_full(
    tmp_path: Path, samples: int
) -> None:
    path = write_noise(tmp_path / "no" / f"{samples}.wav", samples)
    data = load_features(Clips([Clip(path, "no")]), TASK, tmp_path / "cache")
    whole, rest = divmod(samples, WINDOW)
    assert len(data) == max(1, whole + (rest >= WINDOW / 2))
    assert set(data.clip_index.tolist()) == {0}
    sound = read_audio(path)[: len(data) * WINDOW]
    padded = np.pad(sound, (0, len(data) * WINDOW - len(sound)))
    last = energies_of(padded[-WINDOW:]).numpy()
    assert np.allclose(data.energies[-1], last, rtol=1e-5, atol=1e-7 * last.max())


def test_a_second_call_reads_no_sound(tmp_path: Path) -> None:
    clips = collection(tmp_path / "clips")
    first = load_features(clips, TASK, tmp_path / "cache")
    for clip in clips:
        garble(clip.path)
    second = load_features(clips, TASK, tmp_path / "cache")
    assert same(first, second)
    assert isinstance(second.energies, np.memmap)
    assert not second.energies.flags.writeable


def test_a_changed_file_is_read_again_and_no_other(tmp_path: Path) -> None:
    clips = collection(tmp_path / "clips")
    first = load_features(clips, TASK, tmp_path / "cache")
    for clip in clips:
        garble(clip.path)
    write_noise(clips[1].path, WINDOW, seed=99)
    touch_later(clips[1].path)
    second = load_features(clips, TASK, tmp_path / "cache")
    assert second.skipped == ()
    assert np.array_equal(first.energies[[0, 2, 3]], second.energies[[0, 2, 3]])
    assert not np.allclose(first.energies[1], second.energies[1])


def test_of_a_grown_collection_only_the_new_file_is_read(tmp_path: Path) -> None:
    clips = collection(tmp_path / "clips")
    first = load_features(clips, TASK, tmp_path / "cache")
    for clip in clips:
        garble(clip.path)
    new = Clip(write_noise(tmp_path / "clips" / "no" / "new.wav", 3 * WINDOW), "no")
    second = load_features(Clips([clips[0], new, *clips[1:]]), TASK, tmp_path / "cache")
    assert second.skipped == ()
    assert second.clip_index.tolist() == [0, 1, 1, 1, 2, 3, 4]
    assert np.array_equal(second.energies[[0, 4, 5, 6]], first.energies)
    assert len(list((tmp_path / "cache").iterdir())) == 2, "the smaller collection is of no more use"


def test_a_part_of_a_collection_does_not_drive_out_the_whole(tmp_path: Path) -> None:
    clips = collection(tmp_path / "clips")
    whole = load_features(clips, TASK, tmp_path / "cache")
    part = load_features(clips[1:3], TASK, tmp_path / "cache")
    for clip in clips:
        garble(clip.path)
    assert same(load_features(clips, TASK, tmp_path / "cache"), whole)
    assert same(load_features(clips[1:3], TASK, tmp_path / "cache"), part)
    assert np.array_equal(part.energies, whole.energies[1:3])


def test_another_front_end_or_window_has_its_own_energies(tmp_path: Path) -> None:
    clips = collection(tmp_path / "clips")
    tasks = [
        TASK,
        TASK.model_copy(update={"front_end": LogMel(bands=20)}),
        TASK.model_copy(update={"clip_seconds": 0.25}),
    ]
    shapes = [load_features(clips, task, tmp_path / "cache").energies.shape for task in tasks]
    assert shapes == [(4, 48, 40), (4, 48, 20), (8, 23, 40)]
    for clip in clips:
        garble(clip.path)
    assert [load_features(clips, task, tmp_path / "cache").energies.shape for task in tasks] == shapes


def test_labels_are_those_of_the_task_at_hand_not_of_the_cache(tmp_path: Path) -> None:
    clips = collection(tmp_path / "clips")
    load_features(clips, TASK, tmp_path / "cache")
    swapped = TASK.model_copy(update={"labels": ("yes", "no")})
    assert load_features(clips, swapped, tmp_path / "cache").labels.tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize("suffix", [".npy", ".json"])
@pytest.mark.parametrize("damage", ["flipped bit", "cut short", "emptied", "removed"])
def test_a_damaged_cache_is_made_anew(tmp_path: Path, suffix: str, damage: str) -> None:
    clips = collection(tmp_path / "clips")
    good = load_features(clips, TASK, tmp_path / "cache")
    expected = np.array(good.energies)
    [path] = (tmp_path / "cache").glob(f"*{suffix}")
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle] ^= 1
    content = {"flipped bit": data, "cut short": data[:middle], "emptied": b"", "removed": None}[damage]
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    again = load_features(clips, TASK, tmp_path / "cache")
    assert np.array_equal(again.energies, expected)
    assert again.labels.tolist() == [0, 1, 0, 1]
    assert again.skipped == ()


def test_a_table_of_other_rows_is_not_believed(tmp_path: Path) -> None:
    clips = collection(tmp_path / "clips", 2)
    write_noise(clips[0].path, 2 * WINDOW)
    load_features(clips, TASK, tmp_path / "cache")
    [table] = (tmp_path / "cache").glob("*.json")
    text = table.read_text()
    for old, new in (('"windows":2', '"windows":7'), ('"windows":2', '"windows":-2'), ("0.wav", "../0.wav")):
        table.write_text(text.replace(old, new))
        assert load_features(clips, TASK, tmp_path / "cache").clip_index.tolist() == [0, 0, 1]


def test_damaged_clips_and_strange_labels_are_skipped_and_named(tmp_path: Path) -> None:
    clips = collection(tmp_path / "clips")
    clips[1].path.write_text("no sound")
    clips[2].path.unlink()
    strange = Clip(write_noise(tmp_path / "clips" / "maybe" / "0.wav", WINDOW), "maybe")
    mixed = Clips([strange, *clips])
    data = load_features(mixed, TASK, tmp_path / "cache")
    assert data.clip_index.tolist() == [1, 4]
    assert data.labels.tolist() == [0, 1]
    reasons = dict(data.skipped)
    assert set(reasons) == {str(clip.path) for clip in (strange, clips[1], clips[2])}
    assert "'maybe'" in reasons[str(strange.path)]
    assert same(load_features(mixed, TASK, tmp_path / "cache"), data)


def test_a_file_that_comes_back_is_used(tmp_path: Path) -> None:
    clips = collection(tmp_path / "clips")
    content = clips[2].path.read_bytes()
    clips[2].path.unlink()
    assert len(load_features(clips, TASK, tmp_path / "cache")) == 3
    clips[2].path.write_bytes(content)
    assert len(load_features(clips, TASK, tmp_path / "cache")) == 4


def test_nothing_usable_is_an_error_with_the_counts(tmp_path: Path) -> None:
    clips = collection(tmp_path / "clips", 2)
    clips[0].path.write_text("no sound")
    clips[1].path.unlink()
    strange = Clip(write_noise(tmp_path / "clips" / "maybe" / "0.wav", WINDOW), "maybe")
    with pytest.raises(DataError, match=r"FA-2007: No usable clips: of 3, 1 .* label .* 2 are damaged"):
        load_features(Clips([strange, *clips]), TASK, tmp_path / "cache")
    with pytest.raises(DataError, match="FA-2007"):
        load_features(Clips([strange]), TASK, tmp_path / "cache")
    with pytest.raises(DataError, match="FA-2007"):
        load_features(Clips(), TASK, tmp_path / "cache")


def test_a_full_disk_is_a_storage_error_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    clips = collection(tmp_path / "clips")
    with files_no_larger_than(10_000), pytest.raises(StorageError, match="FA-8001"):
        load_features(clips, TASK, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    assert len(load_features(clips, TASK, tmp_path / "cache")) == 4


def test_the_cache_is_private(tmp_path: Path) -> None:
    load_features(collection(tmp_path / "clips"), TASK, tmp_path / "cache")
    for path in (tmp_path / "cache", *(tmp_path / "cache").iterdir()):
        assert path.stat().st_mode & 0o077 == 0


def test_a_subset_keeps_what_belongs_together(tmp_path: Path) -> None:
    data = load_features(collection(tmp_path / "clips"), TASK, tmp_path / "cache")
    part = data.subset([3, 0])
    assert part.labels.tolist() == [1, 0]
    assert part.clip_index.tolist() == [3, 0]
    assert np.array_equal(part.energies, data.energies[[3, 0]])
    assert len(data.subset(np.array([], dtype=np.int64))) == 0


@pytest.mark.parametrize("name", ["_background_noise_", "background_noise"])
def test_noise_beside_the_clips_is_found(tmp_path: Path, name: str) -> None:
    collection(tmp_path)
    write_noise(tmp_path / name / "tap.wav", 3 * WINDOW, seed=7)
    (tmp_path / name / "damaged.wav").write_text("no sound")
    noise = load_background(tmp_path, TASK, tmp_path / "cache")
    assert noise is not None
    assert noise.labels.tolist() == [-1, -1, -1]
    assert [Path(file).name for file, _ in noise.skipped] == ["damaged.wav"]
    assert np.allclose(
        noise.energies[0], energies_of(read_audio(tmp_path / name / "tap.wav")[:WINDOW]), rtol=1e-4
    )


def test_without_usable_noise_there_is_none(tmp_path: Path) -> None:
    assert load_background(tmp_path, TASK, tmp_path / "cache") is None
    (tmp_path / "background_noise").mkdir()
    (tmp_path / "background_noise" / "damaged.wav").write_text("no sound")
    assert load_background(tmp_path, TASK, tmp_path / "cache") is None


def test_real_words_and_their_noise(tmp_path: Path, shared_data: Path) -> None:
    root = shared_data / "arabic_speech_commands"
    clips = Clips.load(root).filter(lambda clip: clip.speaker in {"00000024", "00000027"})
    task = Task(labels=clips.labels)
    data = load_features(clips, task, tmp_path / "cache")
    assert data.energies.shape == (120, 98, 40)
    assert np.bincount(data.labels).tolist() == [12] * 10
    assert np.isfinite(data.energies).all()
    noise = load_background(root / "manifest.csv", task, tmp_path / "cache")
    assert noise is not None
    assert len(noise) == 85  # 84.8 s


def test_real_sounds_of_uneven_length(tmp_path: Path, shared_data: Path) -> None:
    clips = Clips.load(shared_data / "esc10").filter(
        lambda clip: clip.label in {"helicopter", "fire_crackling"}
    )
    lengths = {clip.path.name: soundfile.info(clip.path).duration for clip in clips}
    data = load_features(clips, Task(labels=clips.labels, clip_seconds=1.0), tmp_path / "cache")
    windows = {clips[index].path.name: count for index, count in enumerate(np.bincount(data.clip_index))}
    assert windows == {name: int(seconds + 0.5) for name, seconds in lengths.items()}
    assert {windows[name] for name in ("1-172649-F.flac", "1-17808-B.flac", "4-164661-B.flac")} == {7, 4}
