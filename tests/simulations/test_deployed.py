"""The same seeds give the same weights, whether devices are real or not."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from common.task import Task
from simulations.pool import ProcessPool
from simulations.scenario import Scenario
from simulations.simulation import Simulation
from simulations.world import world_of_devices
from tests.processes import SMALL, Federation, write_tones
from tests.simulations.made_pool import PLAIN_MEAN, SCAFFOLD, digest

RECIPE = SCAFFOLD["recipe"] | {"batch_size": 2, "epochs": 2}
ROUNDS = {"min_devices": 2, "holdout": 0.3}
SEED = 11


def test_a_simulated_round_is_a_deployed_round(tmp_path: Path) -> None:
    """Two rounds: in the second, devices and coordinator need what they remember of the first."""
    clips: list[tuple[str, Path]] = []
    choices = {"recipe": RECIPE, "aggregation": PLAIN_MEAN, "rounds": ROUNDS}
    with Federation(tmp_path, choices | {"seed": SEED}) as federation:
        federation.start_server()
        for name, count in (("kitchen", 6), ("cellar", 9)):
            device = federation.add_device(name)
            write_tones(device.clips, count)
            federation.start_device(device)
            ids = {enrolled.name: enrolled.id for enrolled in federation.registry.devices()}
            clips.append((ids[name], device.clips))
        federation.wait_online(2)
        assert federation.train(2).state == "done"
        deployed = [federation.release(version) for version in range(3)]

    task = Task.model_validate(SMALL["task"])
    scenario = Scenario.model_validate(choices | {"name": "deployed", "population": {"devices": 2}})
    world = world_of_devices(task, clips, tmp_path / "world", tmp_path / "cache", holdout=0.3, seed=SEED)
    with closing(ProcessPool(world.folder, scenario, SEED, tmp_path / "kept", 2)) as pool:
        simulation = Simulation(world, scenario, SEED, pool, 2)
        at = simulation.start(None)
        for release in deployed:
            assert digest(at.weights) == digest(release.weights)
            stated = release.manifest.metrics.device_accuracy
            assert at.facts.metrics.device_accuracy == stated
            if release.version < 2:
                at = simulation.after(at)
    assert stated is not None
