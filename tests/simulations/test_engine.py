"""One run of a scenario with one seed: what it leaves behind, and whose its folder is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from common.errors import SimulationError
from common.protocol.release import load_release
from fedaudio.model import verify_folder
from fl_client.listen.recognizer import Recognizer
from simulations.checkpoint import RunFolder
from simulations.engine import own_cache, simulate
from simulations.progress import Progress
from simulations.scenario import Scenario
from tests.simulations.made_pool import quick
from tests.simulations.run_process import rounds_in, written


def test_what_a_run_leaves_behind(small: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    scenario, told = quick(small, number_of_rounds=2), list[Progress]()
    folder = tmp_path / "run"
    results = simulate(scenario, 0, folder, watch=told.append)
    assert written(folder) == results
    assert Scenario.model_validate_json((folder / "scenario.json").read_bytes()) == scenario
    assert rounds_in(folder) == len(results.rounds) == 2
    assert (results.population, len(results.devices), results.interrupted) == (6, 6, False)
    assert sum(map(sum, results.confusion)) == sum(speaker.clips for speaker in results.unseen) == 12
    correct = sum(results.confusion[label][label] for label in range(2))
    assert results.final.accuracy_unseen == correct / 12 == results.rounds[-1].accuracy_unseen
    assert [speaker.name for speaker in results.unseen] == sorted(results.speakers.unseen)

    manifest, _ = verify_folder(folder / "release")
    assert manifest.task.labels == results.labels
    assert manifest.participants == results.rounds[-1].participants
    assert Recognizer(load_release(folder / "release")).version == manifest.version
    allowed = {"results.json", "scenario.json", "rounds.jsonl", "checkpoint", "release", "world"}
    assert {path.name for path in folder.iterdir()} == allowed
    assert {path.name for path in own_cache().iterdir()} == {".lock", "energies"}
    assert own_cache().is_relative_to(tmp_path)

    assert [progress.round for progress in told if progress.doing == "over"] == [1, 2]
    assert told[-1].doing == "finishing"
    answered = [
        progress.answered for progress in told if progress.doing == "training" and progress.round == 1
    ]
    assert answered[:6] == [1, 2, 3, 4, 5, 6]


def test_a_folder_is_one_runs(small: Scenario, tmp_path: Path, cache: Path) -> None:
    scenario = quick(small, number_of_rounds=1)
    simulate(scenario, 0, tmp_path, cache=cache, release=False)
    for other, seed, resume in ((scenario, 0, False), (scenario, 1, True), (small, 0, True)):
        with pytest.raises(SimulationError, match="FA-9002"):
            simulate(other, seed, tmp_path, cache=cache, resume=resume)
    with RunFolder(tmp_path, scenario, 0).alone(), pytest.raises(SimulationError, match="FA-9003"):
        simulate(scenario, 0, tmp_path, cache=cache, resume=True)
    newest = tmp_path / "checkpoint" / "newest.safetensors"
    whole = newest.read_bytes()
    for damaged in (b"", whole[:100], whole[: len(whole) // 2]):
        newest.write_bytes(damaged)
        with pytest.raises(SimulationError, match="FA-9004"):
            simulate(scenario, 0, tmp_path, cache=cache, resume=True)
    newest.write_bytes(whole)
    (tmp_path / "rounds.jsonl").unlink()
    with pytest.raises(SimulationError, match="FA-9004"):
        simulate(scenario, 0, tmp_path, cache=cache, resume=True)


def test_other_clips_are_another_simulation(
    small: Scenario, collection: Path, tmp_path: Path, cache: Path
) -> None:
    copy = shutil.copytree(collection, tmp_path / "clips")
    scenario = quick(small, number_of_rounds=1, data={"path": copy})
    simulate(scenario, 0, tmp_path / "run", cache=cache, release=False)
    assert not (tmp_path / "run" / "release").exists()
    simulate(scenario, 0, tmp_path / "run", cache=cache, resume=True, release=False)
    shutil.copyfile(copy / "ja" / "s1_nohash_0.wav", copy / "ja" / "s0_nohash_0.wav")
    with pytest.raises(SimulationError, match=r"FA-9002.*clips"):
        simulate(scenario, 0, tmp_path / "run", cache=cache, resume=True, release=False)


def test_no_more_workers_than_devices_in_a_round(small: Scenario, tmp_path: Path, cache: Path) -> None:
    scenario = quick(small, number_of_rounds=1, rounds={"cohort": 2})
    results = simulate(scenario, 0, tmp_path, workers=9, cache=cache, release=False)
    assert results.workers == 2
    assert results.seconds >= results.time.preparing + results.time.testing > 0


def test_failures_are_counted_and_not_told_one_by_one(
    small: Scenario, tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scenario = quick(small, number_of_rounds=1, privacy={"noise_multiplier": 0.001})
    results = simulate(scenario, 0, tmp_path, cache=cache)
    assert (results.rounds[0].failures, results.rounds[0].void) == ({"FA-7005": 6}, "FA-5004")
    assert not caplog.records


def test_no_such_backend(small: Scenario, tmp_path: Path, cache: Path) -> None:
    with pytest.raises(SimulationError, match="FA-9005"):
        simulate(quick(small), 0, tmp_path, cache=cache, backend="cloud")
