"""FedProx: the pull back to where a device started, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from common.algorithms.fedprox import ProximalPart
from common.data.features import FeatureSet
from common.models.acoustic import AcousticModel
from common.models.weights import get_weights
from common.privacy.secure_random import SecureRandom
from common.protocol.plan import Privacy, Recipe
from common.protocol.tensors import Weights
from common.task import Task
from tests.common.algorithms.made_plans import SGD, but, work

MakeToy = Callable[..., FeatureSet]
MakeModel = Callable[..., AcousticModel]


def norm(delta: Weights | None) -> float:
    assert delta is not None
    return float(np.sqrt(sum(np.square(value, dtype=np.float64).sum() for value in delta.values())))


@given(st.floats(0, 100), st.floats(-5, 5), st.floats(-5, 5), st.floats(-5, 5))
def test_it_adds_mu_times_the_distance_to_the_gradient(
    mu: float, start: float, now: float, gradient: float
) -> None:
    model = nn.Linear(1, 1)
    nn.init.constant_(model.weight, start)
    part = ProximalPart(model, Recipe(algorithm="fedprox", proximal=mu), {}, {})  # type: ignore[arg-type]
    nn.init.constant_(model.weight, now)
    model.weight.grad = torch.full((1, 1), gradient)
    part.correct_gradients()
    torch.testing.assert_close(
        model.weight.grad, torch.full((1, 1), gradient + mu * (now - start)), atol=1e-4, rtol=1e-5
    )
    assert model.bias.grad is None


def test_two_steps_differ_from_fedavgs_by_that(task: Task, make_model: MakeModel, make_toy: MakeToy) -> None:
    """Two steps on one batch: the first starts at distance 0, so only the second feels the term."""
    weights, data, rate, mu = get_weights(make_model()), make_toy(12), 1e-2, 20.0
    recipe = but(SGD, batch_size=12, learning_rate=rate, proximal=mu)
    first, free = (work(task, weights, but(recipe, steps=steps), data).answer for steps in (1, 2))
    held = work(task, weights, but(recipe, steps=2, algorithm="fedprox"), data).answer
    assert first is not None
    assert free is not None
    assert held is not None
    for name in weights:
        np.testing.assert_allclose(free[name] - held[name], rate * mu * first[name], atol=5e-7, rtol=1e-3)


def test_a_huge_mu_holds_the_weights(task: Task, make_model: MakeModel, make_toy: MakeToy) -> None:
    weights, data = get_weights(make_model()), make_toy(12)
    free = but(SGD, learning_rate=0.01, epochs=40)
    moved = norm(work(task, weights, free, data).answer)
    held = norm(work(task, weights, but(free, algorithm="fedprox", proximal=100.0), data).answer)
    assert held < 0.2 * moved, (held, moved)


def test_it_acts_after_the_noise_and_costs_no_privacy(
    task: Task, make_model: MakeModel, make_toy: MakeToy
) -> None:
    weights, data = get_weights(make_model()), make_toy(24)
    recipe = but(SGD, steps=30, learning_rate=0.1, proximal=10.0)
    free, held = (
        work(
            task,
            weights,
            but(recipe, algorithm=algorithm),
            data,
            changes={"privacy": Privacy()},
            noise_random=SecureRandom(bytes(32)),
        )
        for algorithm in ("fedavg", "fedprox")
    )
    assert free.report.privacy == held.report.privacy
    assert norm(held.answer) < 0.5 * norm(free.answer)
