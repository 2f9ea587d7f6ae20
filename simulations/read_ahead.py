"""Telling the system which windows are needed next, so that it reads them from disk while workers train."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np

from simulations.population import StoredPopulation, open_population


class ReadAhead:
    """The windows of a world, as files.

    Args:
        world: folder of the world.
    """

    def __init__(self, world: Path) -> None:
        self._population: StoredPopulation = open_population(world)
        files = [world / "energies.npy", world / "features.npy"]
        self._files = [_Windows(path) for path in files if path.exists()]

    def expect(self, device: int) -> None:
        """Say that the data of `device` will be needed soon. Costs microseconds; nothing is read here."""
        for first, count in self._population.stretches(device):
            for file in self._files:
                file.expect(first, count)


class _Windows:
    """An array on disk, one window after the other, behind a header."""

    def __init__(self, path: Path) -> None:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        self._size = array.nbytes // max(1, len(array))
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._header = len(self._map) - array.nbytes

    def expect(self, first: int, count: int) -> None:
        begin = self._header + first * self._size
        page = begin - begin % mmap.PAGESIZE
        self._map.madvise(mmap.MADV_WILLNEED, page, begin - page + count * self._size)
