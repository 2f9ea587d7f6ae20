"""Worlds: who has which clips, and that a world is made once, whole, and the same by everybody."""

from __future__ import annotations

import shutil
import tempfile
import tracemalloc
from collections import Counter
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.audio.batch import BatchFrontEnd
from common.data.clips import Clips
from common.data.features import FeatureSet, load_features
from common.data.importing import import_clips
from common.data.splits import holdout_indices
from common.errors import ConfigError, DataError
from common.files import locked
from common.models.registry import build_model
from common.models.weights import get_weights
from common.protocol.answer import encode_answer
from common.protocol.plan import Augmentation, Plan, Recipe
from common.task import Task
from common.training.examples import plain_features
from common.training.local import LocalTrainer
from simulations.population import World, open_population
from simulations.scenario import Scenario
from simulations.world import build_world, open_world, world_of_devices
from tests.simulations.conftest import SPEAKERS, TAKES, WORDS

OFF = Augmentation(shift_seconds=0, gain_db=0, noise_probability=0, time_masks=0, band_masks=0)


def changed(scenario: Scenario, **tables: dict[str, Any]) -> Scenario:
    """`scenario` with some keys of its tables changed, and checked again."""
    document = scenario.model_dump()
    for table, keys in tables.items():
        document[table] = document[table] | keys
    return Scenario.model_validate(document)


def sounds(data: FeatureSet | None) -> Counter[bytes]:
    """The windows of `data`; no two clips of the collection sound the same."""
    return Counter() if data is None else Counter(window.tobytes() for window in data.energies)


def of_devices(world: World) -> list[Counter[bytes]]:
    return [sounds(world.population.data(device)) for device in range(len(world.population))]


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


class TestWhoHasWhat:
    @settings(max_examples=25)
    @given(st.data())
    def test_every_clip_has_one_role_and_one_device(
        self, small: Scenario, cache: Path, data: st.DataObject
    ) -> None:
        unseen = data.draw(st.integers(1, SPEAKERS - 2), "unseen")
        validation = data.draw(st.integers(0, SPEAKERS - 1 - unseen), "validation")
        training = SPEAKERS - unseen - validation
        partition = data.draw(st.sampled_from(["speaker", "iid", "dirichlet"]), "partition")
        most = training if partition == "speaker" else training * len(WORDS) * TAKES
        devices = data.draw(st.integers(1, most), "devices")
        scenario = changed(
            small,
            data={"unseen": unseen, "validation": validation},
            population={"devices": devices, "partition": partition, "alpha": 0.3},
        )
        with tempfile.TemporaryDirectory() as folder:
            world = build_world(scenario, data.draw(st.integers(0, 2**53), "seed"), Path(folder) / "w", cache)
            parts = of_devices(world)
            assert len(parts) == devices
            assert all(parts)
            everything = sum(parts, sounds(world.unseen) + sounds(world.validation))
            assert len(everything) == SPEAKERS * len(WORDS) * TAKES
            assert set(everything.values()) == {1}
            assert len(world.unseen) == unseen * len(WORDS) * TAKES
            names = world.speakers
            assert sorted(names.train + names.validation + names.unseen) == [f"s{n}" for n in range(SPEAKERS)]
            assert set(world.unseen_names) == set(names.unseen)

    def test_a_speaker_of_the_test_is_heard_nowhere_else(
        self, small: Scenario, collection: Path, cache: Path, tmp_path: Path
    ) -> None:
        scenario = changed(
            small, data={"unseen": ("s3", "s5"), "validation": ("s0",)}, population={"devices": 5}
        )
        world = build_world(scenario, 0, tmp_path / "w", cache)
        clips = Clips.load(collection)

        def spoken_by(*speakers: str) -> Counter[bytes]:
            some = clips.filter(lambda clip: clip.speaker in speakers)
            return sounds(load_features(some, world.task, cache / "others"))

        assert sounds(world.unseen) == spoken_by("s3", "s5")
        assert sounds(world.validation) == spoken_by("s0")
        assert [world.unseen_names[clip] for clip in world.unseen.clip_index] == list(world.unseen_names)
        for device, part in enumerate(of_devices(world)):
            assert part == spoken_by(world.population.name(device))

    def test_labels_can_be_chosen_and_are_in_the_order_given(
        self, small: Scenario, cache: Path, tmp_path: Path
    ) -> None:
        scenario = changed(small, data={"labels": ("nein", "ja")})
        world = build_world(scenario, 0, tmp_path / "w", cache)
        other = build_world(small, 0, tmp_path / "o", cache)
        assert world.task.labels == ("nein", "ja")
        assert (world.unseen.labels == 1 - other.unseen.labels).all()

    def test_shared_devices_have_one_speaker_each_and_as_many_clips_as_they_may(
        self, small: Scenario, cache: Path, tmp_path: Path
    ) -> None:
        scenario = changed(small, population={"devices": 50, "partition": "shared", "clips": 4})
        population = build_world(scenario, 0, tmp_path / "w", cache).population
        speakers = Counter(population.name(device) for device in range(50))
        assert len(speakers) == SPEAKERS - 2
        assert max(speakers.values()) - min(speakers.values()) <= 1
        assert {len(population.data(device)) for device in range(50)} == {4}
        assert len({frozenset(part) for part in of_devices(open_world(tmp_path / "w"))}) > len(speakers)

    def test_a_damaged_clip_is_nobodys(
        self, small: Scenario, collection: Path, cache: Path, tmp_path: Path
    ) -> None:
        copy = tmp_path / "copy"
        shutil.copytree(collection, copy)
        (copy / "ja" / "s0_nohash_0.wav").write_bytes(b"no sound")
        world = build_world(changed(small, data={"path": copy}), 0, tmp_path / "w", cache)
        everything = sum(of_devices(world), sounds(world.unseen))
        assert len(everything) == SPEAKERS * len(WORDS) * TAKES - 1

    def test_a_clip_that_a_table_names_twice_is_one_clip(
        self, small: Scenario, collection: Path, cache: Path, tmp_path: Path
    ) -> None:
        copy = tmp_path / "copy"
        shutil.copytree(collection, copy)
        rows = [
            f"{clip.path.relative_to(collection)},{clip.label},{clip.speaker}"
            for clip in Clips.load(collection)
        ]
        (copy / "manifest.csv").write_text("\n".join(["path,label,speaker", *rows, *rows]))
        world = build_world(changed(small, data={"path": copy}), 0, tmp_path / "w", cache)
        assert set(sum(of_devices(world), sounds(world.unseen)).values()) == {1}

    def test_devices_hold_out_as_the_coordinator_will_ask_them(
        self, small: Scenario, cache: Path, tmp_path: Path
    ) -> None:
        def held(name: str, scenario: Scenario) -> list[list[int]]:
            population = build_world(scenario, 0, tmp_path / name, cache).population
            for device in range(len(population)):
                total = population.training_windows(device) + len(population.held_out(device))
                assert total == len(population.data(device))
            return [population.held_out(device) for device in range(len(population))]

        half = changed(small, rounds={"holdout": 0.5})
        assert any(held("a", half))
        assert not any(held("b", changed(half, rounds={"evaluate": False})))
        private = Scenario.model_validate(half.model_dump() | {"privacy": {}})
        assert not any(held("c", private))


class TestFaults:
    @pytest.mark.parametrize(
        ("code", "tables"),
        [
            ("FA-2009", {"data": {"unseen": ("s9",)}}),
            ("FA-2010", {"population": {"devices": 7}}),
            ("FA-2050", {"data": {"split": "fold"}}),
            ("FA-2051", {"data": {"unseen": 8}}),
            ("FA-2051", {"data": {"unseen": 4, "validation": 4}}),
            ("FA-2051", {"data": {"unseen": ()}}),
            ("FA-2052", {"data": {"unseen": ("s1",), "validation": ("s1",)}}),
            ("FA-2053", {"data": {"labels": ("ja", "neun")}}),
            ("FA-6003", {"data": {"labels": ("ja",)}}),
        ],
    )
    def test_each_has_its_code_and_leaves_no_world(
        self, code: str, tables: dict[str, Any], small: Scenario, cache: Path, tmp_path: Path
    ) -> None:
        with pytest.raises((DataError, ConfigError), match=code):
            build_world(changed(small, **tables), 0, tmp_path / "w", cache)
        assert not (tmp_path / "w").exists()

    def test_an_unknown_label_is_told_what_is_near(
        self, small: Scenario, cache: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(DataError, match="nein"):
            build_world(changed(small, data={"labels": ("ja", "neun")}), 0, tmp_path / "w", cache)


class TestFolder:
    def test_the_same_seed_makes_the_same_files(self, small: Scenario, cache: Path, tmp_path: Path) -> None:
        scenario = changed(
            small,
            population={"partition": "iid", "quantity_skew": 0.7, "noise_snr_db": (0, 9), "microphone_db": 3},
        )
        folders = [tmp_path / "a", tmp_path / "b"]
        for folder, other_cache in zip(folders, (cache, tmp_path / "cache"), strict=True):
            build_world(scenario, 5, folder, other_cache)
        assert contents(folders[0]) == contents(folders[1])

    def test_another_seed_makes_another_world(self, small: Scenario, cache: Path, tmp_path: Path) -> None:
        scenario = changed(small, data={"unseen": ("s0",)}, population={"partition": "iid"})
        worlds = [of_devices(build_world(scenario, seed, tmp_path / f"{seed}", cache)) for seed in (1, 2)]
        assert worlds[0] != worlds[1]
        drawn = [build_world(small, seed, tmp_path / f"u{seed}", cache).speakers.unseen for seed in range(8)]
        assert len(set(drawn)) > 1

    def test_a_world_that_is_there_is_taken_and_another_is_replaced(
        self, small: Scenario, cache: Path, tmp_path: Path
    ) -> None:
        folder = tmp_path / "w"

        def made(scenario: Scenario, seed: int) -> int:
            build_world(scenario, seed, folder, cache)
            return folder.stat().st_ino

        first = made(small, 1)
        again = Scenario.model_validate(small.model_dump() | {"number_of_rounds": 7, "about": "other rounds"})
        assert made(again, 1) == first
        second = made(small, 2)
        assert second != first
        assert made(changed(small, data={"unseen": 1}), 2) != second
        assert len(open_world(folder).speakers.unseen) == 1

    def test_changed_sound_makes_another_world(
        self, small: Scenario, collection: Path, cache: Path, tmp_path: Path
    ) -> None:
        copy = tmp_path / "copy"
        shutil.copytree(collection, copy)
        scenario = changed(small, data={"path": copy})
        before = sum(of_devices(build_world(scenario, 0, tmp_path / "w", cache)), Counter())
        shutil.copy(copy / "ja" / "s0_nohash_0.wav", copy / "ja" / "s0_nohash_7.wav")
        (copy / "ja" / "s0_nohash_0.wav").unlink()
        (copy / "ja" / "s1_nohash_0.wav").unlink()
        after = build_world(scenario, 0, tmp_path / "w", cache)
        assert sum(of_devices(after), Counter()) + sounds(after.unseen) != before
        assert len(sum(of_devices(after), sounds(after.unseen))) == SPEAKERS * len(WORDS) * TAKES - 1

    def test_what_a_killed_build_leaves_is_made_anew(
        self, small: Scenario, cache: Path, tmp_path: Path
    ) -> None:
        whole = contents(build_world(small, 0, tmp_path / "whole", cache).folder)
        folder, unfinished = tmp_path / "w", tmp_path / ".w.new"
        for place in (folder, unfinished):
            place.mkdir()
            for name in ("clips.npy", "features.npy"):
                (place / name).write_bytes(b"half")
        build_world(small, 0, folder, cache)
        assert contents(folder) == whole
        assert not unfinished.exists()
        (folder / "world.json").write_bytes(whole["world.json"][:100])
        build_world(small, 0, folder, cache)
        assert contents(folder) == whole

    def test_a_world_outlives_the_cache(self, small: Scenario, tmp_path: Path) -> None:
        world = build_world(small, 0, tmp_path / "w", tmp_path / "cache")
        before = of_devices(world)
        shutil.rmtree(tmp_path / "cache")
        assert of_devices(open_world(tmp_path / "w")) == before

    def test_one_run_at_a_time_uses_a_cache(self, small: Scenario, cache: Path, tmp_path: Path) -> None:
        build_world(small, 0, tmp_path / "known", cache)
        other = Thread(target=build_world, args=(small, 0, tmp_path / "w", cache))
        with locked(cache / ".lock"):
            other.start()
            # Many times what it takes with energies that are there.
            other.join(timeout=1)
            assert not (tmp_path / "w").exists()
        other.join()
        assert contents(tmp_path / "w") == contents(tmp_path / "known")
        assert cache.stat().st_mode & 0o077 == 0

    def test_a_device_costs_its_indices_and_nothing_else(
        self, small: Scenario, cache: Path, tmp_path: Path
    ) -> None:
        def size(devices: int) -> int:
            scenario = changed(small, population={"devices": devices, "partition": "shared", "clips": 5})
            folder = build_world(scenario, 0, tmp_path / str(devices), cache).folder
            return sum(len(data) for name, data in contents(folder).items() if name != "world.json")

        # Five clips of four bytes each, and where they begin.
        assert size(10_000) - size(100) == 9_900 * (5 * 4 + 8)

    def test_an_open_population_takes_no_memory(self, small: Scenario, cache: Path, tmp_path: Path) -> None:
        scenario = changed(small, population={"devices": 10_000, "partition": "shared", "clips": 5})
        build_world(scenario, 0, tmp_path / "w", cache)
        tracemalloc.start()
        try:
            population = open_population(tmp_path / "w")
            for device in range(0, 10_000, 100):
                population.data(device)
                population.held_out(device)
            taken, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert taken < 10_000 * 20


class TestFeatures:
    def test_they_are_ready_where_nothing_changes_energies(
        self, small: Scenario, cache: Path, tmp_path: Path
    ) -> None:
        plain = changed(
            small, recipe={"augmentation": OFF}, data={"validation": 1}, population={"devices": 5}
        )
        world = build_world(plain, 0, tmp_path / "w", cache)
        front_end = BatchFrontEnd(world.task.front_end)
        validation = world.validation
        assert validation
        for data in (world.unseen, validation, world.population.data(0)):
            assert data.features is not None
            computed = FeatureSet(data.energies, data.labels, data.clip_index)
            expected = plain_features(front_end, computed, np.arange(len(data)))
            assert (data.features == expected.numpy()).all()

    def test_devices_have_none_that_would_not_be_theirs(
        self, small: Scenario, cache: Path, tmp_path: Path
    ) -> None:
        plain = changed(small, recipe={"augmentation": OFF})
        for name, scenario in (
            ("augmented", small),
            ("microphone", changed(plain, population={"microphone_db": 3.0})),
            ("noise", changed(plain, population={"noise_snr_db": (0, 10)})),
        ):
            world = build_world(scenario, 0, tmp_path / name, cache)
            assert world.population.data(0).features is None
            assert world.unseen.features is not None


class TestWorldOfDevices:
    TASK = Task(labels=WORDS, clip_seconds=0.2)

    @pytest.fixture
    def folders(self, collection: Path, tmp_path: Path) -> list[tuple[str, Path]]:
        """Clips of two devices, as imported; one is damaged since, and one is not of the task."""
        devices = []
        clips = Clips.load(collection)
        for number in range(2):
            folder = tmp_path / f"device{number}" / "clips"
            import_clips(clips.filter(lambda clip, n=number: clip.speaker in (f"s{n}", f"s{n + 2}")), folder)
            devices.append((f"{number}" * 32, folder))
        sorted((folder / "ja").iterdir())[1].write_bytes(b"no sound")
        (folder / "aber").mkdir()
        shutil.copy(collection / "ja" / "s7_nohash_0.wav", folder / "aber" / "x.wav")
        return devices

    def test_a_device_trains_to_the_same_bits_as_deployed(
        self, folders: list[tuple[str, Path]], tmp_path: Path
    ) -> None:
        world = world_of_devices(self.TASK, folders, tmp_path / "w", tmp_path / "cache", holdout=0.3)
        trainer = LocalTrainer(self.TASK)
        weights = get_weights(build_model(self.TASK, torch.Generator().manual_seed(1)))
        plan = Plan(
            coordinator="0" * 64,
            run="0" * 16,
            round=1,
            expires=2**40,
            cohort=2,
            recipient="0" * 16,
            task=self.TASK,
            recipe=Recipe(epochs=1),
            base="0" * 64,
            holdout=0.3,
            seed=4,
        )
        for number, (device, folder) in enumerate(folders):
            # As fl_client.orders does it.
            clips = Clips.load(folder)
            features = load_features(clips, self.TASK, tmp_path / "deployed" / str(number))
            held = holdout_indices(clips, plan.holdout)
            population = world.population
            assert population.id(number) == device
            assert population.held_out(number) == held
            assert held
            simulated = population.data(number)
            assert (simulated.clip_index == features.clip_index).all()
            assert (simulated.labels == features.labels).all()
            assert population.training_windows(number) == (~np.isin(features.clip_index, held)).sum()
            tensors = [
                encode_answer(done.report.model_copy(update={"seconds": 0.0, "skipped": 0}), done.answer)
                for done in (
                    trainer.answer(plan, weights, features, held, device),
                    trainer.answer(
                        plan, weights, simulated, population.held_out(number), population.id(number)
                    ),
                )
            ]
            assert tensors[0] == tensors[1]

    def test_it_can_have_unseen_clips_and_need_not(
        self, folders: list[tuple[str, Path]], collection: Path, tmp_path: Path
    ) -> None:
        unseen = Clips.load(collection).filter(lambda clip: clip.speaker == "s7")
        world = world_of_devices(self.TASK, folders, tmp_path / "w", tmp_path / "cache", unseen=unseen)
        assert world.speakers.unseen == ("s7",)
        assert len(world.unseen) == len(WORDS) * TAKES
        assert world.unseen_names == ("s7",) * len(WORDS) * TAKES
        without = world_of_devices(self.TASK, folders, tmp_path / "o", tmp_path / "cache")
        assert len(without.unseen) == 0
        assert of_devices(without) == of_devices(world)


def test_a_synthetic_corpus_is_made_once(tmp_path: Path) -> None:
    scenario = Scenario.model_validate(
        {"name": "made", "data": {"voices": 3, "takes": 1, "unseen": 1}, "population": {"devices": 2}}
    )
    world = build_world(scenario, 0, tmp_path / "w", tmp_path / "cache")
    assert len(world.task.labels) == 11
    assert [len(world.population.data(device)) for device in range(2)] == [11, 11]
    (corpus,) = (tmp_path / "cache" / "corpora").glob("[!.]*")
    made = (corpus / "manifest.csv").stat().st_mtime_ns
    other = build_world(scenario, 1, tmp_path / "w", tmp_path / "cache")
    assert (corpus / "manifest.csv").stat().st_mtime_ns == made
    assert other.task == world.task
    shutil.rmtree(tmp_path / "cache")
    assert build_world(scenario, 1, tmp_path / "w", tmp_path / "cache").key == other.key


@pytest.mark.parametrize(
    ("name", "tables"),
    [
        ("arabic_speech_commands", {"population": {"devices": 14}}),
        ("fsdd", {"data": {"unseen": 1}, "population": {"devices": 3}}),
        ("esc10", {"data": {"unseen": ("4",), "split": "fold"}, "task": {"clip_seconds": 5.0}}),
    ],
)
def test_real_collections(
    name: str, tables: dict[str, Any], small: Scenario, shared_data: Path, cache: Path, tmp_path: Path
) -> None:
    scenario = changed(small, task={"clip_seconds": 1.0}, data={"path": shared_data / name, "unseen": 4})
    world = build_world(changed(scenario, **tables), 3, tmp_path / "w", cache)
    clips = Clips.load(shared_data / name)
    parts = of_devices(world)
    assert all(parts)
    assert sum(len(part) for part in parts) + len(world.unseen_names) >= len(clips)
    assert not sum(parts, Counter()).keys() & sounds(world.unseen).keys()
