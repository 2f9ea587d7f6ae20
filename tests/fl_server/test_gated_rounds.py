"""A coordinator with a gate: a poisoned candidate is refused, nothing is published, and training goes on."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile

from common.audio.front_end import SAMPLE_RATE
from common.data.clips import Clips
from common.errors import FedAudioError
from common.models.acoustic import HEAD
from common.protocol.answer import encode_answer
from common.protocol.release import Metrics, Release
from common.protocol.tensors import Weights, schema_of
from common.training.local import train_local
from fl_server import evidence
from fl_server.coordinator import TRIES, Coordinator
from fl_server.home import CoordinatorHome
from fl_server.initialise import initialise
from fl_server.memory import Memory, decode_memory, made_by
from fl_server.settings import ServerSettings
from fl_server.status import describe
from fl_server.tables import Round
from tests.fl_server.made_clips import PLAIN, TASK, made_sounds
from tests.fl_server.made_fleet import Behaviour, MadeDevice, MemoryFleet, Order, enrol

NAMES = ("attic", "cellar", "kitchen", "porch")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sounds in a folder for each label."""
    folder = tmp_path_factory.mktemp("clips")
    for number, sound in enumerate(made_sounds(60)):
        path = folder / TASK.labels[number % len(TASK.labels)] / f"{number}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, sound, SAMPLE_RATE)
    return folder


@pytest.fixture(scope="module")
def learned(clips: Path) -> Weights:
    """Weights that name nearly every clip rightly."""
    weights, _ = train_local(Clips.load(clips), TASK, PLAIN.model_copy(update={"epochs": 30}))
    return weights


class House:
    """A coordinator and four devices; what each sends is its `delta`, or another's."""

    def __init__(self, folder: Path, **changes: object) -> None:
        home, rounds = CoordinatorHome(folder), {"evaluate": False, "min_devices": 1}
        self.home, self.events = home, list[str]()
        settings = ServerSettings.model_validate({"task": TASK, "rounds": rounds} | changes)
        initialise(home, settings, names=["127.0.0.1"])
        self.coordinator = Coordinator(home, settings)
        self.registry = self.coordinator._registry
        self.devices: dict[str, MadeDevice] = {name: enrol(self.registry, name) for name in NAMES}

    @property
    def base(self) -> Release:
        return self.coordinator._versions.current()

    def delta(self, name: str, scale: float = 0.01) -> Weights:
        rng = np.random.default_rng(sum(name.encode()))
        return {
            key: (scale * rng.normal(size=value.shape)).astype(np.float32)
            for key, value in self.base.weights.items()
        }

    def sends(self, name: str, delta: Weights) -> Behaviour:
        device = self.devices[name]

        def answer(order: Order) -> Sequence[bytes]:
            self.events.append(order.plan.kind)
            report = device.report(order.plan)
            return [device.seal(order, encode_answer(report, delta if order.plan.kind == "train" else None))]

        return answer

    def fleet(self, changes: dict[str, Weights] | None = None) -> MemoryFleet:
        changes = changes or {}
        sent = {name: changes.get(name) or self.delta(name) for name in NAMES}
        behaviours = [self.sends(name, delta) for name, delta in sent.items()]
        ids = {node: device.id for node, device in enumerate(self.devices.values())}
        return MemoryFleet(dict(enumerate(behaviours)), ids, keys=[self.coordinator._keys.opening.public])

    def hold(self, changes: dict[str, Weights] | None = None) -> Round:
        order = self.registry.open_order() or self.registry.place_order(50)
        with suppress(FedAudioError):
            self.coordinator._run_round(self.fleet(changes), order)
        return self.registry.rounds()[-1]

    def memory(self) -> bytes | None:
        return self.coordinator._versions.memory(self.base.version)

    def remembered(self) -> Memory:
        settings = self.coordinator._settings
        made = made_by(settings.recipe, settings.optimizer, schema_of(self.base.weights))
        return decode_memory(self.memory(), made)

    def last_line(self) -> dict[str, object]:
        evidence.verify(self.registry, self.home.root / "evidence.head")
        line: dict[str, object] = json.loads(list(evidence.lines(self.registry))[-1])
        return line


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path / "server", aggregation={"rule": "mean", "mixing": "off", "norm_clipping": 100.0})
    yield made
    made.registry.close()


def test_a_poisoned_candidate_is_refused_and_training_goes_on(house: House) -> None:
    for _ in range(3):
        assert house.hold().state == "done"
    before, memory, files = house.base, house.memory(), sorted(house.home.releases.iterdir())

    row = house.hold({"attic": house.delta("attic", 0.5)})
    assert (row.state, row.version, row.code) == ("void", None, "FA-5113")
    assert (house.base.version, house.memory()) == (before.version, memory)
    assert sorted(house.home.releases.iterdir()) == files
    line = house.last_line()
    assert (line["kind"], line["state"], line["code"]) == ("round", "void", "FA-5113")
    updates = line["contributions"]
    assert isinstance(updates, list)
    assert {update["device"] for update in updates} == {device.id for device in house.devices.values()}
    shown = describe(house.home)["rounds"][-1]
    assert (shown["state"], shown["code"]) == ("void", "FA-5113")
    assert "is usual" in str(shown["happened"])

    row = house.hold()
    assert (row.state, row.version, row.base) == ("done", before.version + 1, before.version)
    assert len(house.remembered().steps) == 4


def test_a_candidate_is_tried_before_devices_are_asked_about_it(tmp_path: Path) -> None:
    house = House(
        tmp_path,
        aggregation={"rule": "mean", "mixing": "off", "norm_clipping": 100.0},
        rounds={"evaluate": True, "min_devices": 1},
    )
    for _ in range(3):
        house.hold()
    assert house.events.count("evaluate") == 3 * len(NAMES)
    house.hold({"attic": house.delta("attic", 0.5)})
    assert house.events.count("evaluate") == 3 * len(NAMES)


class Brief(threading.Event):
    """Set after it was looked at often enough for all rounds."""

    looks = 0

    def is_set(self) -> bool:
        self.looks += 1
        return self.looks > 20

    def wait(self, timeout: float | None = None) -> bool:
        return self.is_set()


class SmallFront:
    """A front that needs no replacement."""

    def memory(self) -> int:
        return 0


def test_an_order_is_given_up_after_several_refusals_in_a_row(house: House) -> None:
    for _ in range(3):
        house.hold()
    fleet = house.fleet({"attic": house.delta("attic", 0.5)})
    house.coordinator._take_orders(fleet, SmallFront(), Brief())  # type: ignore[arg-type]
    order = house.registry.order(1)
    assert (order.state, order.code, order.done) == ("failed", "FA-5113", 3)
    assert [row.state for row in house.registry.rounds()] == ["done"] * 3 + ["void"] * TRIES


def test_with_clips_of_its_own_a_coordinator_misses_what_was_lost(
    tmp_path: Path, clips: Path, learned: Weights
) -> None:
    house = House(
        tmp_path, validation=str(clips), aggregation={"rule": "mean", "mixing": "off", "norm_clipping": 100.0}
    )
    publish(house, learned)
    row = house.hold()
    assert row.state == "done"
    stated = house.base.manifest.metrics.validation_accuracy
    assert stated is not None
    assert stated > 0.9
    wreck = {name: -2 * value for name, value in house.base.weights.items()}
    row = house.hold(dict.fromkeys(NAMES[:3], wreck))
    assert (row.state, row.code, house.base.version) == ("void", "FA-5110", 2)
    assert house.hold().state == "done"


def test_the_rule_trust_follows_the_coordinators_own_clips(tmp_path: Path, clips: Path) -> None:
    aggregation = {"rule": "trust", "mixing": "off", "norm_clipping": 0}
    house = House(tmp_path, validation=str(clips), aggregation=aggregation, recipe=PLAIN)
    before = house.base
    weights, _ = train_local(
        Clips.load(clips), TASK, house.coordinator._settings.recipe, weights=before.weights, seed=5
    )
    right = {name: weights[name] - before.weights[name] for name in weights}
    wrong = {name: -4 * value for name, value in right.items()}
    assert house.hold(dict.fromkeys(NAMES[:3], wrong) | {"porch": right}).state == "done"
    step = np.concatenate([(house.base.weights[name] - before.weights[name]).ravel() for name in right])
    way = np.concatenate([right[name].ravel() for name in right])
    assert step @ way > 0.99 * np.linalg.norm(step) * np.linalg.norm(way)
    # With nobody that goes the same way there is nothing to release.
    row = house.hold(dict.fromkeys(NAMES, wrong))
    assert (row.state, row.code) == ("void", "FA-5115")


def test_the_rule_trust_needs_clips(tmp_path: Path) -> None:
    house = House(tmp_path, aggregation={"rule": "trust"})
    assert (house.hold().code, house.base.version) == ("FA-6041", 0)


def publish(house: House, weights: Weights) -> None:
    house.coordinator._versions.publish(
        weights,
        house.base,
        metrics=Metrics(),
        participants=1,
        privacy=None,
        memory=Memory().encode(),
    )


def test_a_reference_that_comes_to_nothing_costs_rounds_and_not_the_order_at_once(
    tmp_path: Path, clips: Path
) -> None:
    # Each step multiplies the weights by -9.
    changes = {"optimizer": "sgd", "learning_rate": 10.0, "weight_decay": 1.0, "epochs": 20}
    runaway = PLAIN.model_copy(update=changes)
    house = House(tmp_path, validation=str(clips), aggregation={"rule": "trust"}, recipe=runaway)
    house.registry.place_order(1)
    house.coordinator._take_orders(house.fleet(), SmallFront(), Brief())  # type: ignore[arg-type]
    assert [(row.state, row.code) for row in house.registry.rounds()] == [("void", "FA-5115")] * TRIES


def test_where_heads_are_personal_the_validation_clips_judge_nothing(
    tmp_path: Path, clips: Path, learned: Weights, caplog: pytest.LogCaptureFixture
) -> None:
    """A body with a head that it does not know says little of what devices hear with theirs."""
    aggregation = {"rule": "mean", "mixing": "off", "norm_clipping": 0}
    recipe = PLAIN.model_copy(update={"algorithm": "fedper"})
    house = House(tmp_path, validation=str(clips), aggregation=aggregation, recipe=recipe)
    assert caplog.text.count("validation clips judge nothing") == 1
    publish(house, learned)
    wreck = {name: -2 * value for name, value in house.base.weights.items() if not name.startswith(HEAD)}
    assert house.hold(dict.fromkeys(NAMES, wreck)).state == "done"
    manifest = house.base.manifest
    assert (manifest.version, manifest.algorithm) == (2, "fedper")
    assert manifest.metrics == Metrics()
    assert caplog.text.count("validation clips judge nothing") == 1


def test_a_damaged_memory_costs_a_warning_and_no_round(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    house.hold()
    for data in (b"", b"noise" * 50):
        house.coordinator._versions._memory_file(house.base.version).write_bytes(data)
        caplog.clear()
        assert house.hold().state == "done"
        assert caplog.text.count("is damaged and is not used") == 1
        assert len(house.remembered().steps) == 1


def test_it_is_said_once_that_so_few_devices_withstand_no_attacker(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    house = House(tmp_path, gate={"step": 0})
    for _ in range(2):
        assert house.hold().state == "done"
    assert caplog.text.count("4 devices are so few") == 1
    house.coordinator._note_attackers(5)
    house.coordinator._note_attackers(4)
    assert caplog.text.count("4 devices are so few") == 2
