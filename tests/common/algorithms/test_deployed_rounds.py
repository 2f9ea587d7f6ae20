"""Whole rounds by each algorithm: the coordinator's code, sealed answers, and devices that train."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from common.algorithms.algorithm import Algorithm
from common.algorithms.registry import ALGORITHMS
from common.algorithms.scaffold import CONTROL
from common.data.features import FeatureSet
from common.models.acoustic import HEAD, AcousticModel
from common.models.weights import get_weights
from common.protocol.algorithms import AlgorithmName
from common.protocol.answer import encode_answer
from common.protocol.plan import Recipe
from common.protocol.release import Metrics
from common.protocol.tensors import Schema, Weights, decode_weights, encode_weights, schema_of
from common.security.sealing import Suite
from common.task import Task
from fl_server.candidate import train_candidate, try_on_devices
from fl_server.fleet import Kind
from fl_server.memory import Memory, decode_memory, made_by
from fl_server.rounds import Collected, Exchange
from fl_server.settings import Aggregation
from tests.common.algorithms.made_plans import SGD, STILL, but, trainer
from tests.fl_server.made_fleet import MadeCoordinator, MadeDevice, MemoryFleet, Order, make_settings

MakeToy = Callable[..., FeatureSet]
MakeModel = Callable[..., AcousticModel]

RECIPES: dict[AlgorithmName, Recipe] = {
    name: but(SGD, algorithm=name, epochs=1, batch_size=4) for name in ALGORITHMS
}


class Learner:
    """A device that really trains; what it keeps stays here."""

    def __init__(self, made: MadeDevice, data: FeatureSet) -> None:
        self.made, self.data = made, data
        self.kept: Weights = {}
        self.sent: Weights = {}

    def __call__(self, order: Order) -> list[bytes]:
        algorithm, plan = ALGORITHMS[order.plan.recipe.algorithm], order.plan
        local = trainer(plan.task)
        tensors = decode_weights(self.tensors, algorithm.order_schema(local.schema))
        held = range(0, len(self.data.labels), 4)
        done = local.answer(plan, tensors, self.data, held, self.made.id, kept=self.kept)
        if plan.kind == "train":
            self.kept, self.sent = done.kept, done.answer or {}
        return [self.made.seal(order, encode_answer(done.report, done.answer))]

    tensors: bytes = b""


class House:
    """A coordinator whose fleet is in this process; `enrolled` may be more than are ever asked."""

    def __init__(self, folder: Path, task: Task, weights: Weights, data: list[FeatureSet]) -> None:
        self.coordinator = MadeCoordinator(folder, Suite.X25519)
        self.task, self.weights, self.memory = task, weights, Memory()
        self.learners = [
            Learner(self.coordinator.enrol(f"device{number}"), one) for number, one in enumerate(data)
        ]
        self.number = 0

    def draft(self, kind: Kind, order: Weights, schema: Schema, cohort: Mapping[int, str]) -> Exchange:
        tensors = encode_weights(order)
        for learner in self.learners:
            learner.tensors = tensors
        return self.coordinator.exchange(cohort, kind, self.number, tensors, schema)

    def round(
        self,
        recipe: Recipe,
        cohort: range | None = None,
        enrolled: int | None = None,
        **changes: object,
    ) -> Metrics:
        """Train and let the devices try the result; it becomes the model. `changes` are to the settings."""
        self.number += 1
        settings = self.coordinator.settings = make_settings(
            task=self.task, recipe=recipe, rounds={"holdout": 0.25}, **changes
        )
        chosen = range(len(self.learners)) if cohort is None else cohort
        ids = {node: self.learners[node].made.id for node in chosen}
        fleet = MemoryFleet({node: self.learners[node] for node in chosen}, ids)
        trained, tried = Collected(), Collected()
        candidate = train_candidate(
            fleet,
            settings,
            self.weights,
            self.memory,
            ids,
            enrolled=enrolled or len(self.learners),
            draft=self.draft,
            collected=trained,
        )
        assert trained.failures == []
        metrics = try_on_devices(fleet, settings, candidate, ids, draft=self.draft, collected=tried)
        assert tried.failures == []
        assert tried.norms == []
        # As it is kept beside a version.
        made = made_by(settings.recipe, settings.optimizer, schema_of(candidate.weights))
        self.weights, self.memory = candidate.weights, decode_memory(candidate.memory.encode(), made)
        return metrics

    def mean(self, name: str) -> np.ndarray:
        return np.mean([learner.sent[name].astype(np.float64) for learner in self.learners], axis=0)


@pytest.fixture
def house(tmp_path: Path, task: Task, make_model: MakeModel, make_toy: MakeToy) -> Iterator[House]:
    """Three devices with other clips."""
    made = House(tmp_path, task, get_weights(make_model()), [make_toy(12, seed=seed) for seed in range(3)])
    yield made
    made.coordinator.close()


def test_every_algorithm_that_a_recipe_may_name_is_there() -> None:
    assert set(ALGORITHMS) == set(get_args(AlgorithmName))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_two_rounds(house: House, algorithm: AlgorithmName) -> None:
    schema = schema_of(house.weights)
    for _ in range(2):
        before, control = house.weights, house.memory.algorithm
        metrics = house.round(RECIPES[algorithm])
        assert metrics.device_accuracy is not None
        assert schema_of(house.weights) == schema
        for name, value in house.weights.items():
            if algorithm in {"fedper", "fedrep"} and name.startswith(HEAD):
                assert np.array_equal(value, before[name])
            else:
                np.testing.assert_allclose(value, before[name] + house.mean(name), atol=1e-6)
        for name, value in house.memory.algorithm.items():
            np.testing.assert_allclose(value, control.get(name, 0.0) + house.mean(name), atol=1e-5)
    expected = ALGORITHMS[algorithm]
    assert schema_of(house.memory.algorithm) == (
        expected.kept_schema(schema) if algorithm == "scaffold" else {}
    )
    assert all(schema_of(learner.kept) == expected.kept_schema(schema) for learner in house.learners)


def test_scaffolds_control_variate_stays_the_mean_of_a_fleet_of_which_few_are_asked(house: House) -> None:
    for cohort in (range(2), range(1, 3), range(3), range(1)):
        house.round(RECIPES["scaffold"], cohort, enrolled=3)
        for name, value in house.memory.algorithm.items():
            own = [learner.kept.get(name, np.zeros_like(value)) for learner in house.learners]
            np.testing.assert_allclose(value, np.mean(own, axis=0), atol=1e-5)


class Listening(Algorithm):
    """FedAvg that notes what share of the fleet was heard."""

    def __init__(self) -> None:
        self.shares: list[float] = []

    def conclude(
        self, mean: Weights, weights: Weights, memory: Weights, share: float
    ) -> tuple[Weights, Weights]:
        self.shares.append(share)
        return super().conclude(mean, weights, memory, share)


def test_the_default_rule_counts_the_devices_that_it_heard(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It clips norms, and holds all updates of a first round back until it knows them."""
    listening = Listening()
    monkeypatch.setitem(ALGORITHMS, "fedavg", listening)  # type: ignore[arg-type]
    for cohort in (range(3), range(2)):
        house.round(RECIPES["fedavg"], cohort, aggregation=Aggregation())
    assert listening.shares == pytest.approx([1.0, 2 / 3])


def test_what_another_algorithm_remembers_is_forgotten(house: House) -> None:
    house.round(RECIPES["scaffold"])
    assert all(name.startswith(CONTROL) for name in house.memory.algorithm)
    house.round(RECIPES["fedavg"])
    assert house.memory.algorithm == {}


def test_an_answer_with_the_head_is_refused(house: House) -> None:
    """As a device would send that takes FedPer for FedAvg."""
    honest, liar = house.learners[:2]

    def with_head(order: Order) -> list[bytes]:
        delta = {name: np.zeros_like(value) for name, value in house.weights.items()}
        return [liar.made.seal(order, encode_answer(liar.made.report(order.plan), delta))]

    settings = house.coordinator.settings = make_settings(task=house.task, recipe=RECIPES["fedper"])
    ids, collected = {0: honest.made.id, 1: liar.made.id}, Collected()
    train_candidate(
        MemoryFleet({0: honest, 1: with_head}, ids),
        settings,
        house.weights,
        Memory(),
        ids,
        enrolled=2,
        draft=house.draft,
        collected=collected,
    )
    assert [failure.code for failure in collected.failures] == ["FA-3002"]


@pytest.mark.parametrize(
    ("algorithm", "least", "most"), [("fedavg", 0.0, 0.7), ("fedper", 0.8, 1.0), ("fedrep", 0.8, 1.0)]
)
def test_devices_that_name_things_differently_each_have_their_own_way(
    tmp_path: Path,
    task: Task,
    make_model: MakeModel,
    make_toy: MakeToy,
    algorithm: AlgorithmName,
    least: float,
    most: float,
) -> None:
    """What one calls low another calls high. One head for all can be right for one of them only."""

    def renamed(by: int) -> FeatureSet:
        toy = make_toy(48, seed=by)
        return FeatureSet(toy.energies, (toy.labels + by) % 3, toy.clip_index)

    house = House(tmp_path, task, get_weights(make_model()), [renamed(by) for by in range(3)])
    recipe = Recipe(algorithm=algorithm, learning_rate=1e-2, epochs=3, batch_size=8, augmentation=STILL)
    accuracy = [house.round(recipe).device_accuracy for _ in range(10)][-1]
    house.coordinator.close()
    assert accuracy is not None
    assert least <= accuracy <= most
