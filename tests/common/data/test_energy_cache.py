"""The cache of energies does not grow without end."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from common.data.energy_cache import forget_older, load_energies
from common.task import Task
from tests.processes import write_tones


def test_the_last_two_front_ends_are_kept(tmp_path: Path) -> None:
    write_tones(tmp_path / "clips")
    files = sorted((tmp_path / "clips").glob("*/*.flac"))
    cache = tmp_path / "cache"
    tasks = [Task(labels=("high", "low"), clip_seconds=seconds) for seconds in (0.2, 0.25, 0.3)]
    made: list[set[Path]] = []
    for time, task in enumerate(tasks):
        before = set(cache.glob("*"))
        # Two folders of one task count once.
        load_energies(files, task, cache)
        load_energies(files[:3], task, cache)
        made.append(set(cache.glob("*")) - before)
        for file in made[-1]:
            os.utime(file, (time, time))
    assert [len(names) for names in made] == [4, 4, 4]
    half_written = cache / ".0123-4000-4567-89ab.npy.tmp"
    half_written.write_bytes(b"a writer was killed")
    (cache / "background").mkdir()
    expected = load_energies(files, tasks[2], cache).rows.copy()
    forget_older(cache, keep=2)
    assert set(cache.glob("*")) == made[1] | made[2] | {cache / "background"}
    assert np.array_equal(load_energies(files, tasks[2], cache).rows, expected)


def test_there_may_be_nothing_to_forget(tmp_path: Path) -> None:
    forget_older(tmp_path / "none", keep=2)
    assert list(tmp_path.iterdir()) == []
