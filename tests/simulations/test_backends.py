"""Where devices' work is done does not show in what comes of it: not in one bit of the weights."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from common.errors import FedAudioError
from simulations.engine import simulate
from simulations.load import load_scenario
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
        assert (ours.loss, ours.bytes_up, ours.void) == (theirs.loss, theirs.bytes_up, None)
    assert other.devices == local.devices


@needs_ray
def test_ray_is_reached_from_this_machine_only(place: Path, scenario: Scenario) -> None:
    """Who reaches Ray's ports may run anything."""
    code = """
import psutil, ray
from pathlib import Path
from simulations.ray_pool import _connect, require_ray
_connect(require_ray(), 1)
mine = [process.pid for process in psutil.Process().children(recursive=True)]
heard = [each for each in psutil.net_connections("inet") if each.status == "LISTEN" and each.pid in mine]
assert heard
print({each.laddr.ip for each in heard})
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "{'127.0.0.1'}"


@needs_ray
def test_a_cluster_that_is_not_there_is_one_clear_error(
    place: Path, scenario: Scenario, local: SimulationResults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(FedAudioError) as caught:
        simulate(scenario, 3, place / "nowhere", backend="ray", cache=place / "cache")
    assert caught.value.code == "FA-9306"


@pytest.mark.parametrize("backend", ["ray", "flower"])
def test_without_ray_it_says_how_to_get_it(backend: str, place: Path, scenario: Scenario) -> None:
    code = f"""
import sys
sys.modules["ray"] = None
from pathlib import Path
from common.errors import SimulationError
from simulations.backends import make_pool
from simulations.load import load_scenario
try:
    make_pool({backend!r}, Path("world"), load_scenario({str(place / "tiny.toml")!r}), 0, Path("kept"), 1)
except SimulationError as error:
    print(error.code)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "FA-9302"


def weights(run: Path) -> bytes:
    (path,) = (run / "release").rglob("weights.safetensors")
    return path.read_bytes()
