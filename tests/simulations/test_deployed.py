"""The same seeds give the same weights, whether devices are real or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from common.protocol.release import Release
from common.task import Task
from fl_client.home import DeviceHome
from simulations.pool import ProcessPool
from simulations.scenario import Scenario
from simulations.simulation import Simulation
from simulations.world import world_of_devices
from tests.processes import SMALL, Federation, write_tones
from tests.simulations.made_pool import PLAIN_MEAN, SCAFFOLD, digest

SEED = 11
ROUNDS = 2
"""In the second, devices and coordinator need what they remember of the first."""


def test_two_devices_with_all_their_processes(tmp_path: Path) -> None:
    choices = {
        "recipe": SCAFFOLD["recipe"] | {"batch_size": 2, "epochs": 2},
        "aggregation": PLAIN_MEAN,
        "rounds": {"min_devices": 2, "holdout": 0.3},
    }
    with Federation(tmp_path, choices | {"seed": SEED}) as federation:
        federation.start_server()
        devices = [federation.add_device(name) for name in ("kitchen", "cellar")]
        for device, count in zip(devices, (6, 9), strict=True):
            write_tones(device.clips, count)
            federation.start_device(device)
        deployed = train(federation, devices)
    assert_simulated_alike(deployed, choices, tmp_path)


@pytest.mark.parametrize("trained", ["all", "head"])
def test_the_default_rule(trained: str, tmp_path: Path) -> None:
    """It clips and mixes by direction, and among five it trims; all five are in one process, to save time."""
    recipe = {"batch_size": 2, "epochs": 1, "trained": trained}
    choices = {"recipe": recipe, "rounds": {"min_devices": 5, "holdout": 0.3}}
    devices = [
        DeviceHome(tmp_path / "devices.homes" / name) for name in ("attic", "cave", "den", "hut", "loft")
    ]
    with Federation(tmp_path, choices | {"seed": SEED}) as federation:
        federation.start_server()
        for count, device in enumerate(devices, 3):
            write_tones(device.clips, count)
        federation.start_light_devices("devices", *(f"{device.root.name}=trains" for device in devices))
        deployed = train(federation, devices)
    assert_simulated_alike(deployed, choices, tmp_path)


Deployed = tuple[list[Release], list[tuple[str, Path]]]
"""Each version, and each device's id and clips."""


def train(federation: Federation, devices: Sequence[DeviceHome]) -> Deployed:
    """Hold the rounds, with all devices in each."""
    federation.wait_online(len(devices))
    assert federation.train(ROUNDS).state == "done"
    assert [held.participants for held in federation.registry.rounds()] == [len(devices)] * ROUNDS
    ids = {enrolled.name: enrolled.id for enrolled in federation.registry.devices()}
    releases = [federation.release(version) for version in range(ROUNDS + 1)]
    return releases, [(ids[device.root.name], device.clips) for device in devices]


def assert_simulated_alike(deployed: Deployed, choices: Mapping[str, Any], folder: Path) -> None:
    """Virtual devices with the same clips and ids come to the same versions, bit for bit."""
    releases, clips = deployed
    task, holdout = Task.model_validate(SMALL["task"]), choices["rounds"]["holdout"]
    scenario = Scenario.model_validate({"name": "deployed", **choices, "population": {"devices": len(clips)}})
    world = world_of_devices(task, clips, folder / "world", folder / "cache", holdout=holdout, seed=SEED)
    with closing(ProcessPool(world.folder, scenario, SEED, folder / "kept", 2)) as pool:
        simulation = Simulation(world, scenario, SEED, pool, 2)
        at = simulation.start(None)
        for release in releases:
            assert digest(at.weights) == digest(release.weights)
            stated = release.manifest.metrics.device_accuracy
            assert at.facts.metrics.device_accuracy == stated
            if release.version < ROUNDS:
                at = simulation.after(at)
    assert stated is not None
