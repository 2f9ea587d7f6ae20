"""What an algorithm leaves on devices, with all processes real: a coordinator, two devices, two rounds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from common.algorithms.registry import ALGORITHMS
from common.models.acoustic import HEAD
from common.protocol.algorithms import AlgorithmName
from common.protocol.tensors import Weights, schema_of
from common.settings import load_settings
from fl_client.home import DeviceHome
from fl_client.kept import load_kept, personal
from fl_client.store import ModelStore
from fl_server.memory import Memory, decode_memory, made_by
from fl_server.settings import ServerSettings
from tests.processes import Federation, write_tones

pytestmark = pytest.mark.slow

RATE = {"steps": 4, "batch_size": 2, "learning_rate": 0.05}
RECIPES: dict[AlgorithmName, dict[str, object]] = {
    "fedper": {"algorithm": "fedper", **RATE},
    "scaffold": {
        "algorithm": "scaffold",
        "optimizer": "sgd",
        "momentum": 0.0,
        "gradient_clip": 0.0,
        **RATE,
    },
}


@contextmanager
def house(root: Path, algorithm: AlgorithmName) -> Iterator[tuple[Federation, list[DeviceHome]]]:
    """A coordinator and two devices that have other clips."""
    settings = {
        "rounds": {"min_devices": 2, "answer_seconds": 60, "holdout": 0.3},
        "recipe": RECIPES[algorithm],
        "aggregation": {"rule": "mean", "mixing": "off", "norm_clipping": 0.0},
    }
    with Federation(root, settings) as federation:
        federation.start_server()
        devices = [federation.add_device(name) for name in ("kitchen", "cellar")]
        for count, device in enumerate(devices, 3):
            write_tones(device.clips, count)
            federation.start_device(device)
        federation.wait_online(2)
        yield federation, devices


def kept(federation: Federation, device: DeviceHome, algorithm: AlgorithmName) -> Weights:
    schema = ALGORITHMS[algorithm].kept_schema(schema_of(federation.release(0).weights))
    return load_kept(device.kept, federation.pin, schema, private=False)


def one_round(federation: Federation) -> None:
    assert federation.train(1).state == "done"
    assert federation.last_round().participants == 2


def test_heads_stay_on_devices(tmp_path: Path) -> None:
    with house(tmp_path, "fedper") as (federation, devices):
        one_round(federation)
        first = [kept(federation, device, "fedper") for device in devices]
        assert first[0].keys() == first[1].keys() == {HEAD + "weight", HEAD + "bias"}
        assert not np.array_equal(first[0][HEAD + "weight"], first[1][HEAD + "weight"])

        one_round(federation)

        made, released = federation.release(0).weights, federation.release(2).weights
        assert federation.release(2).manifest.algorithm == "fedper"
        for name in made:
            assert np.array_equal(made[name], released[name]) == name.startswith(HEAD), name
        for device, before in zip(devices, first, strict=True):
            head = kept(federation, device, "fedper")
            assert not np.array_equal(head[HEAD + "weight"], before[HEAD + "weight"])
            store = ModelStore(device.models)
            federation.wait(lambda store=store: store.current_version() == 2, "the release")
            heard = personal(store.load(2), device.kept).weights
            for name in made:
                assert np.array_equal(heard[name], head.get(name, released[name])), name


def test_control_variates_agree(tmp_path: Path) -> None:
    with house(tmp_path, "scaffold") as (federation, devices):
        for number in (1, 2):
            one_round(federation)
            memory = remembered(federation, number).algorithm
            own = [kept(federation, device, "scaffold") for device in devices]
            assert memory.keys() == own[0].keys()
            for name, value in memory.items():
                np.testing.assert_allclose(value, (own[0][name] + own[1][name]) / 2, atol=1e-5)
            assert any(value.any() for value in memory.values())


def remembered(federation: Federation, version: int) -> Memory:
    path = federation.home.root / "memory" / f"{version:08d}.safetensors"
    settings = load_settings(ServerSettings, federation.home.config)
    schema = schema_of(federation.release(version).weights)
    return decode_memory(path.read_bytes(), made_by(settings.recipe, settings.optimizer, schema))
