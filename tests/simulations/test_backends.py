"""Where devices' work is done does not show in what comes of it: not in one bit of the weights."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from common.errors import FedAudioError
from simulations.engine import simulate
from simulations.load import load_scenario
from simulations.progress import Progress
from simulations.results import SimulationResults
from simulations.scenario import Scenario
from tests.simulations.made_results import TINY

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="the extra 'ray' is not installed")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("backends")


@pytest.fixture(scope="module")
def scenario(place: Path) -> Scenario:
    """Devices keep something from one round to the next, and two of them attack."""
    (place / "tiny.toml").write_text(TINY)
    return load_scenario(
        str(place / "tiny.toml"),
        [
            "number_of_rounds=2",
            "recipe.algorithm=scaffold",
            "recipe.optimizer=sgd",
            "recipe.momentum=0",
            "recipe.gradient_clip=0",
            "aggregation.rule=mean",
            "aggregation.mixing=off",
            "aggregation.norm_clipping=0",
            "attack.kind=label-flip",
            "attack.share=0.5",
        ],
    )


@pytest.fixture(scope="module")
def local(place: Path, scenario: Scenario) -> SimulationResults:
    return simulate(scenario, 3, place / "local", cache=place / "cache")


@needs_ray
@pytest.mark.parametrize("backend", ["ray", "flower"])
def test_another_backend_gives_the_same_weights(
    backend: str, place: Path, scenario: Scenario, local: SimulationResults
) -> None:
    other = simulate(scenario, 3, place / backend, workers=2, backend=backend, cache=place / "cache")
    assert local.attackers > 0
    assert [each.participants for each in other.rounds] == [len(local.devices)] * 2
    assert weights(place / backend) == weights(place / "local")
    for ours, theirs in zip(local.rounds, other.rounds, strict=True):
        assert (ours.loss, ours.clock_seconds, ours.void) == (theirs.loss, theirs.clock_seconds, None)
    assert other.devices == local.devices


@needs_ray
@pytest.mark.slow
def test_a_ray_worker_that_dies_is_replaced(
    place: Path, scenario: Scenario, local: SimulationResults
) -> None:
    killed: list[int] = []

    def watch(at: Progress) -> None:
        if at.doing == "training" and at.round == 1 and not killed:
            for process in psutil.Process().children(recursive=True):
                if "RayWorker" in process.name():
                    process.kill()
                    killed.append(process.pid)

    simulate(scenario, 3, place / "killed", workers=2, backend="ray", cache=place / "cache", watch=watch)
    assert killed
    assert weights(place / "killed") == weights(place / "local")


@needs_ray
@pytest.mark.slow
def test_nobody_else_can_use_the_ray_that_a_run_starts() -> None:
    """It listens on all addresses, and who is let in may run anything."""
    begin = """
import os, subprocess, sys
from simulations.ray_pool import _connect, require_ray
ray = require_ray()
_connect(ray, 1)
address = ray.get_runtime_context().gcs_address
code = f"import ray; ray.init({address!r}); print('in')"
for known in (True, False):
    other = {name: value for name, value in os.environ.items() if known or not name.startswith("RAY_AUTH")}
    visit = subprocess.run([sys.executable, "-c", code], env=other, capture_output=True, text=True)
    print("in" in visit.stdout)
"""
    done = subprocess.run(
        [sys.executable, "-c", begin], capture_output=True, text=True, timeout=200, check=True
    )
    assert done.stdout.split() == ["True", "False"]


@needs_ray
def test_a_cluster_that_is_not_there_is_one_clear_error(
    place: Path, scenario: Scenario, local: SimulationResults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(FedAudioError) as caught:
        simulate(scenario, 3, place / "nowhere", backend="ray", cache=place / "cache")
    assert caught.value.code == "FA-9306"


def test_without_ray_it_says_how_to_get_it(place: Path, scenario: Scenario) -> None:
    code = f"""
import sys
sys.modules["ray"] = None
from pathlib import Path
from common.errors import SimulationError
from simulations.backends import make_pool
from simulations.load import load_scenario
scenario = load_scenario({str(place / "tiny.toml")!r})
for backend in ("ray", "flower"):
    try:
        make_pool(backend, Path("world"), scenario, 0, Path("kept"), 1)
    except SimulationError as error:
        print(backend, error.code)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.splitlines() == ["ray FA-9302", "flower FA-9302"]


def weights(run: Path) -> bytes:
    (path,) = (run / "release").rglob("weights.safetensors")
    return path.read_bytes()
