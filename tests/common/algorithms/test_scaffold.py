"""SCAFFOLD: what its control variates are, that they stay consistent, and what they are for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from common.algorithms.algorithm import Algorithm
from common.algorithms.registry import ALGORITHMS
from common.algorithms.scaffold import CONTROL
from common.data.features import FeatureSet
from common.models.acoustic import AcousticModel
from common.models.registry import ARCHITECTURES, build_model
from common.models.weights import get_weights, set_weights
from common.protocol.tensors import Weights, schema_of
from common.task import Task
from tests.common.algorithms.made_plans import SGD, but, work

MakeToy = Callable[..., FeatureSet]
MakeModel = Callable[..., AcousticModel]


class Quadratics:
    """Devices whose loss is curvature/2 (w - goal)^2, in as many dimensions as `goals` has columns.

    They differ in both, so devices that take several steps drift apart, and their mean misses the optimum.
    """

    def __init__(
        self, algorithm: str, curvatures: Sequence[float], goals: Sequence[Sequence[float]], rate: float = 0.1
    ) -> None:
        self.algorithm: Algorithm = ALGORITHMS[algorithm]  # type: ignore[index]
        self.recipe = but(SGD, algorithm=algorithm, learning_rate=rate)
        self.curvatures, self.goals = curvatures, torch.tensor(goals, dtype=torch.float32)
        self.weights: Weights = {"weight": np.zeros((1, self.goals.shape[1]), np.float32)}
        self.memory: Weights = {}
        self.kept: list[Weights] = [{} for _ in curvatures]

    @property
    def optimum(self) -> torch.Tensor:
        weight = torch.tensor(self.curvatures).unsqueeze(1)
        return (weight * self.goals).sum(0) / weight.sum()

    @property
    def error(self) -> float:
        return float((torch.from_numpy(self.weights["weight"][0]) - self.optimum).norm())

    @property
    def control(self) -> np.ndarray:
        return self.memory[CONTROL + "weight"]

    def own_control(self, device: int) -> np.ndarray:
        return self.kept[device].get(CONTROL + "weight", np.zeros_like(self.weights["weight"]))

    def work(self, device: int, steps: int) -> Weights:
        order = self.algorithm.order(self.weights, self.memory)
        model = nn.Linear(self.goals.shape[1], 1, bias=False)
        set_weights(model, self.algorithm.start(order, self.kept[device]))
        part = self.algorithm.part(model, self.recipe, order, self.kept[device])  # type: ignore[arg-type]
        for step in range(steps):
            part.before_step(step, steps)
            model.weight.grad = self.curvatures[device] * (model.weight.detach() - self.goals[device])
            part.correct_gradients()
            with torch.no_grad():
                model.weight -= self.recipe.learning_rate * model.weight.grad
        answer, self.kept[device] = part.answer(steps)
        return answer

    def round(self, cohort: Sequence[int], steps: int = 5) -> None:
        answers = [self.work(device, steps) for device in cohort]
        mean = {name: np.mean([answer[name] for answer in answers], axis=0) for name in answers[0]}
        delta, self.memory = self.algorithm.conclude(
            mean, self.weights, self.memory, len(cohort) / len(self.curvatures)
        )
        self.weights = {name: value + delta[name] for name, value in self.weights.items()}


APART = ((1.0, 8.0, 3.0), ((1.0, 0.0), (0.0, 1.0), (-2.0, 2.0)))


def test_the_mean_of_drifting_devices_misses_the_optimum_and_scaffold_does_not() -> None:
    fedavg, scaffold = Quadratics("fedavg", *APART), Quadratics("scaffold", *APART)
    for _ in range(200):
        fedavg.round(range(3))
        scaffold.round(range(3))
    assert fedavg.error > 0.1
    assert scaffold.error < 1e-4


def test_of_few_devices_a_round_scaffold_comes_nearer() -> None:
    rng = np.random.default_rng(0)
    fedavg, scaffold = Quadratics("fedavg", *APART, rate=0.05), Quadratics("scaffold", *APART, rate=0.05)
    errors: dict[str, list[float]] = {"fedavg": [], "scaffold": []}
    for _ in range(400):
        cohort = rng.choice(3, 2, replace=False).tolist()
        for name, made in (("fedavg", fedavg), ("scaffold", scaffold)):
            made.round(cohort)
            errors[name].append(made.error)
    assert np.mean(errors["scaffold"][-50:]) < 0.05 * np.mean(errors["fedavg"][-50:])


def test_devices_that_are_alike_do_as_with_fedavg() -> None:
    alike = ((2.0, 2.0), ((1.0, -1.0), (1.0, -1.0)))
    fedavg, scaffold = Quadratics("fedavg", *alike), Quadratics("scaffold", *alike)
    for _ in range(5):
        fedavg.round(range(2))
        scaffold.round(range(2))
        np.testing.assert_allclose(scaffold.weights["weight"], fedavg.weights["weight"], atol=1e-6)
    assert fedavg.error > 0


@given(st.lists(st.tuples(st.sets(st.integers(0, 3), min_size=1), st.integers(0, 4)), min_size=1, max_size=8))
def test_the_coordinators_control_variate_is_the_mean_of_all_devices(
    rounds: list[tuple[set[int], int]],
) -> None:
    made = Quadratics("scaffold", (1.0, 2.0, 0.5, 3.0), ((1.0,), (0.0,), (-2.0,), (4.0,)), rate=0.1)
    for cohort, steps in rounds:
        made.round(sorted(cohort), steps)
        mean = np.mean([made.own_control(device) for device in range(4)], axis=0)
        np.testing.assert_allclose(made.control, mean, atol=1e-4)


def test_a_round_without_steps_changes_nothing() -> None:
    made = Quadratics("scaffold", *APART)
    made.round(range(3))
    before, kept = made.weights["weight"].copy(), [made.own_control(device) for device in range(3)]
    control = made.control.copy()
    made.round(range(3), steps=0)
    assert np.array_equal(made.weights["weight"], before)
    assert np.array_equal(made.control, control)
    assert all(np.array_equal(made.own_control(device), kept[device]) for device in range(3))


def gradient(task: Task, weights: Weights, data: FeatureSet) -> Weights:
    """Of the mean loss over all of `data`: one step of FedAvg at a rate of 1, turned round."""
    delta = work(task, weights, but(SGD, learning_rate=1.0, batch_size=4096, steps=1), data).answer
    assert delta is not None
    return {name: -value for name, value in delta.items()}


def test_in_training_a_control_variate_is_the_gradient(
    task: Task, make_model: MakeModel, make_toy: MakeToy
) -> None:
    """One full-batch step: the device's next control variate is its gradient where it started."""
    weights, data = get_weights(make_model()), make_toy(12)
    exact, rng = gradient(task, weights, data), np.random.default_rng(0)
    fleet, own = (
        {
            CONTROL + name: (0.1 * rng.normal(size=value.shape)).astype(np.float32)
            for name, value in weights.items()
        }
        for _ in range(2)
    )
    recipe = but(SGD, algorithm="scaffold", batch_size=4096, steps=1)
    done = work(task, weights, recipe, data, memory=fleet, kept=own)
    assert done.answer is not None
    for name in weights:
        control = CONTROL + name
        step = exact[name] - own[control] + fleet[control]
        np.testing.assert_allclose(done.answer[name], -recipe.learning_rate * step, atol=1e-6)
        np.testing.assert_allclose(done.kept[control], exact[name], atol=2e-5)
        np.testing.assert_allclose(done.answer[control], exact[name] - own[control], atol=2e-5)


def test_the_first_round_corrects_nothing(task: Task, make_model: MakeModel, make_toy: MakeToy) -> None:
    weights, data = get_weights(make_model()), make_toy(12)
    plain = work(task, weights, SGD, data).answer
    first = work(task, weights, but(SGD, algorithm="scaffold"), data).answer
    assert plain is not None
    assert first is not None
    assert all(np.array_equal(first[name], plain[name]) for name in plain)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_travels_and_what_stays_is_of_the_stated_shapes(architecture: str, task: Task) -> None:
    model = build_model(task.model_copy(update={"architecture": architecture}), torch.Generator())
    weights, scaffold = get_weights(model), ALGORITHMS["scaffold"]
    schema = schema_of(weights)
    assert not any(name.startswith(CONTROL) for name in schema)
    order = scaffold.order(weights, {})
    assert schema_of(order) == scaffold.order_schema(schema)
    part = scaffold.part(model, but(SGD, algorithm="scaffold"), order, {})
    answer, kept = part.answer(3)
    assert schema_of(answer) == scaffold.answer_schema(schema)
    assert schema_of(kept) == scaffold.kept_schema(schema)
    assert scaffold.start(order, kept).keys() == weights.keys()
    delta, memory = scaffold.conclude(answer, weights, {}, 0.5)
    assert schema_of(delta) == schema
    assert schema_of(scaffold.order(weights, memory)) == scaffold.order_schema(schema)


def test_an_answer_that_is_lost_leaves_the_coordinator_away_from_the_mean_for_good() -> None:
    """As scaffold.py says: the device has saved its control variate, and nobody heard of the change."""
    made = Quadratics("scaffold", *APART)
    made.round(range(3))
    made.work(0, 5)  # lost
    away = made.control - np.mean([made.own_control(device) for device in range(3)], axis=0)
    assert np.abs(away).max() > 0.01
    for _ in range(20):
        made.round(range(3))
    mean = np.mean([made.own_control(device) for device in range(3)], axis=0)
    np.testing.assert_allclose(made.control - mean, away, atol=1e-4)
