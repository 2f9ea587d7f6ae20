"""The devices of a simulation on disk: which windows of one shared file each has, and how it hears them.

Nothing here grows with the number of devices but a few numbers for each: clips stay in one memory-mapped
file, which all workers share.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from common.data.features import FeatureSet
from common.results import Speakers
from common.task import Task


class Population(Protocol):
    """Virtual devices 0 .. len - 1."""

    def __len__(self) -> int: ...

    def id(self, device: int) -> str:
        """Its id, 32 hexadecimal digits, distinct; follows from its number, unless it was given."""
        ...

    def name(self, device: int) -> str:
        """What to call it: its speaker where it has one."""
        ...

    def training_windows(self, device: int) -> int:
        """Windows it trains on; what its work takes grows with them."""
        ...

    def data(self, device: int) -> FeatureSet:
        """All its windows as its own microphone hears them; the same at every call."""
        ...

    def held_out(self, device: int) -> list[int]:
        """Clips (`clip_index`) that it keeps for evaluation."""
        ...


@dataclass(frozen=True)
class World:
    """What a scenario and a seed make of the data, before anything is learnt.

    Args:
        folder: where all of it is kept, for workers to open.
        unseen: clips of speakers that no device and no coordinator has; `unseen_names` one for each clip
            (`clip_index`).
        validation: the coordinator's own clips; None without such.
    """

    folder: Path
    task: Task
    population: Population
    unseen: FeatureSet = field(repr=False)
    unseen_names: tuple[str, ...] = field(repr=False)
    validation: FeatureSet | None = field(repr=False)
    speakers: Speakers
