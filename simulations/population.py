"""The devices of a simulation on disk: which windows of one shared file each has, and how it hears them.

Nothing here grows with the number of devices but a few numbers for each: clips stay in one memory-mapped
file, which all workers share.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from common.data.features import FeatureSet
from common.results import Speakers
from common.settings import Settings
from common.task import Task
from simulations.hearing import hear
from simulations.recordings import Recordings, mapped

RECORD = "world.json"
"""The file of a world's folder that is no array; a folder without it is no world."""


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
        key: names what it was made from, the clips too; empty if its devices were there already.
        unseen: clips of speakers that no device and no coordinator has; `unseen_names` one for each clip
            (`clip_index`).
        validation: the coordinator's own clips; None without such.
    """

    folder: Path
    key: str
    task: Task
    population: Population
    unseen: FeatureSet = field(repr=False)
    unseen_names: tuple[str, ...] = field(repr=False)
    validation: FeatureSet | None = field(repr=False)
    speakers: Speakers


class WorldRecord(Settings):
    """What world.json holds: all that is not one number for each clip or device.

    Args:
        key: names what the world was made from.
        devices: how many.
        ids: of the devices, where they were given.
        voices: names of speakers, which `speaker.npy` counts.
        microphone_db, noise_snr_db, seed: how devices hear, see `simulations.hearing`.
    """

    key: str
    task: Task
    seed: int
    devices: int
    ids: tuple[str, ...] | None = None
    microphone_db: float = 0.0
    noise_snr_db: tuple[float, float] | None = None
    voices: tuple[str, ...]
    speakers: Speakers
    unseen_names: tuple[str, ...]


class StoredPopulation:
    """The population in a world's folder.

    Devices are two arrays: `clips.npy`, all their clips one device after the other, and `devices.npy`, where
    in it each begins. `held.npy` and `speaker.npy` have a number for each clip, whoever has it.
    """

    def __init__(self, folder: Path) -> None:
        self.record = WorldRecord.model_validate_json((folder / RECORD).read_bytes())
        features, noises = folder / "features.npy", folder / "noises.npy"
        self.recordings = Recordings(
            mapped(folder / "energies.npy"),
            mapped(folder / "labels.npy"),
            mapped(folder / "windows.npy"),
            mapped(features) if features.exists() else None,
        )
        self._noises = mapped(noises) if noises.exists() else np.empty((0, 0, 0), np.float32)
        self._clips, self._devices = mapped(folder / "clips.npy"), mapped(folder / "devices.npy")
        self._held, self._speaker = mapped(folder / "held.npy"), mapped(folder / "speaker.npy")

    def __len__(self) -> int:
        return self.record.devices

    def id(self, device: int) -> str:
        if self.record.ids is not None:
            return self.record.ids[device]
        return hashlib.sha256(f"device {device}".encode()).hexdigest()[:32]

    def name(self, device: int) -> str:
        speakers = np.unique(self._speaker[self._clips_of(device)])
        alone = len(speakers) == 1 and speakers[0] >= 0
        return self.record.voices[speakers[0]] if alone else f"device-{device}"

    def training_windows(self, device: int) -> int:
        clips = self._clips_of(device)
        return int(self.recordings.windows(clips[~self._held[clips]]).sum())

    def data(self, device: int) -> FeatureSet:
        clips, record = self._clips_of(device), self.record
        heard = self.recordings.of(clips)
        heard = replace(heard, speakers=self._speaker[clips][heard.clip_index].astype(np.int64))
        if record.noise_snr_db is None and not record.microphone_db:
            return heard
        energies = hear(
            heard.energies,
            device,
            record.seed,
            microphone_db=record.microphone_db,
            noise_snr_db=record.noise_snr_db,
            noises=self._noises,
        )
        return replace(heard, energies=energies)

    def stretches(self, device: int) -> list[tuple[int, int]]:
        """Where its windows lie in the files: first and length of each stretch of neighbours."""
        clips = self._clips_of(device)
        first, counts = self.recordings.first[clips], self.recordings.windows(clips)
        begins = np.flatnonzero(np.append(len(clips) > 0, first[1:] != first[:-1] + counts[:-1]))
        lengths = np.add.reduceat(counts, begins) if len(clips) else counts
        return list(zip(first[begins].tolist(), lengths.tolist(), strict=True))

    def held_out(self, device: int) -> list[int]:
        held: list[int] = np.flatnonzero(self._held[self._clips_of(device)]).tolist()
        return held

    def _clips_of(self, device: int) -> NDArray[np.int32]:
        clips: NDArray[np.int32] = self._clips[self._devices[device] : self._devices[device + 1]]
        return clips


def open_population(folder: Path) -> StoredPopulation:
    """The population of the world in `folder`. Its arrays are mapped, so all processes share one copy."""
    return StoredPopulation(folder)
