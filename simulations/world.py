"""Making a world: from a scenario, a seed and the clips to the folder that workers open."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.data.clips import Clips
from common.data.features import FeatureSet, load_features
from common.data.partitions import by_dirichlet, by_speaker, iid, shared, thinned
from common.data.splits import holdout_indices
from common.files import locked, make_folder, open_atomic, rename, sha256, storage_error, write_atomic
from common.results import Speakers
from common.settings import parse_settings
from common.task import Task
from common.version import VERSION
from simulations.collection import divide, read_collection
from simulations.draws import draws
from simulations.hearing import make_noises
from simulations.population import RECORD, World, WorldRecord, open_population
from simulations.recordings import features_file, with_features
from simulations.scenario import PopulationChoice, Scenario

_FORMAT = 1
"""Rises when the same choices make another world."""


def build_world(scenario: Scenario, seed: int, folder: Path, cache: Path) -> World:
    """The world that `scenario` and `seed` make, in `folder`: as it is there already, or made anew.

    Clips that cannot be read are nobody's. Energies, and the corpus of a scenario that has no recordings, are
    computed once for all seeds.

    Args:
        folder: replaced if it holds another world; made whole or not at all.
        cache: kept from one world to the next; of several runs one at a time uses it, and the others wait.

    Raises:
        DataError: FA-2001..FA-2006 the collection, FA-2007 no clip can be read, FA-2009, FA-2050..FA-2052 who
            is unseen, FA-2010, FA-2011 who has which clips, FA-2053 labels.
        ConfigError: FA-6003, the task does not fit the clips.
        StorageError: FA-8001.
    """
    # Until the world has what it needs: another run may find a file out of date, and remove it.
    with locked(make_folder(cache, mode=0o700) / ".lock"):
        return _build(scenario, seed, folder, cache)


def _build(scenario: Scenario, seed: int, folder: Path, cache: Path) -> World:
    clips = read_collection(scenario.data, cache)
    labels = scenario.data.labels or clips.labels
    task = parse_settings(Task, dict(scenario.task) | {"labels": labels}, scenario.name)
    pool = load_features(clips, task, cache / "energies")
    settings, choice = scenario.server_settings(task, seed), scenario.population
    holdout = settings.rounds.holdout if settings.devices_evaluate else 0.0
    alike = not choice.microphone_db and choice.noise_snr_db is None
    ready = alike and scenario.recipe.augmentation.is_off
    # A synthetic corpus is the same wherever and whenever it is made.
    sounds = _file(pool).name if scenario.data.path else VERSION
    key = _key(scenario.data, task, choice, holdout, ready, seed, sounds)
    if _holds(folder, key):
        return open_world(folder)

    usable = np.unique(pool.clip_index)
    roles = divide(clips.select(usable.tolist()), scenario.data, seed)
    place = {clip: index for index, clip in enumerate(clips)}

    def indices(some: Clips) -> NDArray[np.int32]:
        return np.fromiter((place[clip] for clip in some), np.int32, len(some))

    record = WorldRecord(
        key=key,
        task=task,
        seed=seed,
        devices=choice.devices,
        microphone_db=choice.microphone_db,
        noise_snr_db=choice.noise_snr_db,
        voices=clips.speakers,
        speakers=roles.names,
        unseen_names=tuple(getattr(clip, scenario.data.split) for clip in roles.unseen),
    )
    shares = [indices(share) for share in share_out(roles.training, choice, seed)]
    arrays = _arrays(clips, pool, shares, holdout)
    arrays |= {"unseen": indices(roles.unseen), "validation": indices(roles.validation)}
    if choice.noise_snr_db is not None:
        arrays["noises"] = make_noises(task, seed)
    files = {"energies": _file(pool)}
    if ready:
        files["features"] = features_file(pool.energies, _file(pool).stem, task, cache / "features")
    _write(folder, record, arrays, files)
    return open_world(folder)


def world_of_devices(
    task: Task,
    devices: Sequence[tuple[str, Path]],
    folder: Path,
    cache: Path,
    *,
    unseen: Clips | None = None,
    holdout: float = 0.1,
    seed: int = 0,
) -> World:
    """A world whose devices are there already: each trains on exactly what it would train on deployed.

    But for recorded background noise, which simulated devices do not have.

    Args:
        devices: id and folder of clips of each.
        unseen: clips to test on; without any, accuracies come out as 0.
        holdout: share of a device's clips that it keeps for evaluation; 0 where devices do not evaluate.

    Raises:
        DataError: FA-2001..FA-2007.
        StorageError: FA-8001.
    """
    shares = [Clips.load(clips) for _, clips in devices]
    unseen = unseen or Clips()
    clips = Clips(clip for share in (*shares, unseen) for clip in share)
    pool = load_features(clips, task, cache / "energies")
    ends = np.cumsum([len(share) for share in shares])
    owned = np.split(np.arange(len(clips), dtype=np.int32), ends)
    record = WorldRecord(
        key="",
        task=task,
        seed=seed,
        devices=len(devices),
        ids=tuple(device for device, _ in devices),
        voices=clips.speakers,
        speakers=Speakers(train=Clips(clips[: ends[-1]]).speakers, validation=(), unseen=unseen.speakers),
        unseen_names=tuple(clip.speaker or "" for clip in unseen),
    )
    arrays = _arrays(clips, pool, owned[:-1], holdout)
    arrays |= {"unseen": owned[-1], "validation": owned[-1][:0]}
    _write(folder, record, arrays, {"energies": _file(pool)})
    return open_world(folder)


def open_world(folder: Path) -> World:
    """The world in `folder`, as it was made."""
    population = open_population(folder)
    record, recordings = population.record, population.recordings
    # Not mapped, for there may be none.
    unseen, validation = (
        np.load(folder / f"{part}.npy", allow_pickle=False) for part in ("unseen", "validation")
    )
    return World(
        folder=folder,
        key=record.key,
        task=record.task,
        population=population,
        unseen=with_features(recordings.of(unseen), record.task),
        unseen_names=record.unseen_names,
        validation=with_features(recordings.of(validation), record.task) if len(validation) else None,
        speakers=record.speakers,
    )


def share_out(clips: Clips, choice: PopulationChoice, seed: int) -> list[Clips]:
    """The clips of each device.

    Raises:
        DataError: FA-2010, FA-2011.
    """
    rng = draws(seed, "partition")
    match choice.partition:
        case "speaker":
            shares = by_speaker(clips, choice.devices, rng)
        case "iid":
            shares = iid(clips, choice.devices, rng)
        case "dirichlet":
            shares = by_dirichlet(clips, choice.devices, choice.alpha, rng)
        case "shared":
            shares = shared(clips, choice.devices, rng)
    return thinned(shares, choice.clips, choice.quantity_skew, draws(seed, "quantity"))


def _arrays(
    clips: Clips, pool: FeatureSet, shares: Sequence[NDArray[np.int32]], holdout: float
) -> dict[str, NDArray[np.generic]]:
    """What `StoredPopulation` opens, by name of the file.

    Args:
        shares: each device's clips.
    """
    held = np.zeros(len(clips), np.bool_)
    # By name, as a device decides it: what one holds out, nobody who has the same clip trains on.
    held[holdout_indices(clips, holdout)] = True
    number = {speaker: index for index, speaker in enumerate(clips.speakers)}
    windows = np.bincount(pool.clip_index, minlength=len(clips))
    return {
        "labels": pool.labels,
        "windows": np.concatenate([[0], np.cumsum(windows)]),
        "held": held,
        "speaker": np.array([number.get(clip.speaker or "", -1) for clip in clips], np.int32),
        "clips": np.concatenate(shares),
        "devices": np.concatenate([[0], np.cumsum([len(share) for share in shares])]),
    }


def _key(*parts: object) -> str:
    return sha256(json.dumps([_FORMAT, *map(repr, parts)]).encode())


def _holds(folder: Path, key: str) -> bool:
    try:
        return WorldRecord.model_validate_json((folder / RECORD).read_bytes()).key == key
    except (OSError, ValueError):  # of which pydantic's ValidationError is a kind
        return False


def _file(pool: FeatureSet) -> Path:
    """The file that the energies of `pool` are in; its name says from which sound files they are."""
    if not isinstance(pool.energies, np.memmap):
        raise TypeError("energies are not in a file")
    return Path(str(pool.energies.filename))


def _write(
    folder: Path, record: WorldRecord, arrays: Mapping[str, NDArray[np.generic]], files: Mapping[str, Path]
) -> None:
    """Make `folder`, with `files` linked into it, so that it stays whole when the cache is emptied."""
    new = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    make_folder(new)
    for name, array in arrays.items():
        with open_atomic(new / f"{name}.npy") as file:
            np.save(file, array, allow_pickle=False)
    for name, source in files.items():
        _link(source, new / f"{name}.npy")
    write_atomic(new / RECORD, record.model_dump_json().encode())
    shutil.rmtree(folder, ignore_errors=True)
    rename(new, folder)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one that knows no links
        try:
            shutil.copyfile(source, target)
        except OSError as error:
            raise storage_error(f"{target} could not be written", error) from error
