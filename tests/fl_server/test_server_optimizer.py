"""The server optimiser against the papers, written out in numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.protocol.tensors import Weights
from fl_server.server_optimizer import ServerOptimizer
from fl_server.settings import OptimizerConfig

Vector = npt.NDArray[np.float64]
KINDS = ("fedavg", "fedavgm", "fedadam", "fedyogi")
STEPS = 6


def drawn(seed: int, scale: float = 1.0) -> Weights:
    rng = np.random.default_rng(seed)
    return {
        "w": (scale * rng.normal(size=(3, 4))).astype(np.float32),
        "b": (scale * rng.normal(size=5)).astype(np.float32),
    }


DELTAS = [drawn(100 + step, 0.1) for step in range(STEPS)]


def run(config: OptimizerConfig, deltas: list[Weights] = DELTAS) -> list[Weights]:
    """Weights after each step; the optimiser is made anew for each, as the coordinator does."""
    weights, memory, path = drawn(0), None, []
    for delta in deltas:
        optimizer = ServerOptimizer(weights, config)
        if memory is not None:
            optimizer.recall(memory)
        weights = optimizer.step(delta)
        memory = optimizer.memory()
        path.append(weights)
    return path


def fedavgm(start: Vector, deltas: list[Vector], rate: float, beta: float) -> list[Vector]:
    """Hsu, Qi and Brown 2019: v <- beta v + delta; w <- w + rate v."""
    weights, velocity, path = start, np.zeros_like(start), []
    for delta in deltas:
        velocity = beta * velocity + delta
        weights = weights + rate * velocity
        path.append(weights)
    return path


def fedadam(
    start: Vector, deltas: list[Vector], rate: float, beta1: float, beta2: float, tau: float
) -> list[Vector]:
    """Reddi et al. 2021, algorithm 2, with the bias correction of Kingma and Ba 2015 that torch applies."""
    weights, mean, variance, path = start, np.zeros_like(start), np.zeros_like(start), []
    for step, delta in enumerate(deltas, start=1):
        mean = beta1 * mean + (1 - beta1) * delta
        variance = beta2 * variance + (1 - beta2) * delta**2
        corrected = np.sqrt(variance / (1 - beta2**step))
        weights = weights + rate * mean / (1 - beta1**step) / (corrected + tau)
        path.append(weights)
    return path


def fedyogi(
    start: Vector, deltas: list[Vector], rate: float, beta1: float, beta2: float, tau: float
) -> list[Vector]:
    """Reddi et al. 2021, algorithm 2: v starts at tau^2 and moves by (1 - beta2) delta^2 either way."""
    weights, mean, variance, path = start, np.zeros_like(start), np.full_like(start, tau**2), []
    for delta in deltas:
        mean = beta1 * mean + (1 - beta1) * delta
        variance = variance - (1 - beta2) * delta**2 * np.sign(variance - delta**2)
        weights = weights + rate * mean / (np.sqrt(variance) + tau)
        path.append(weights)
    return path


@given(st.integers(0, 2**31), st.floats(0.01, 1))
def test_fedavg_with_rate_one_takes_the_mean_as_it_is(seed: int, scale: float) -> None:
    base, delta = drawn(seed), drawn(seed + 1, scale)
    after = ServerOptimizer(base, OptimizerConfig()).step(delta)
    for name in base:
        np.testing.assert_array_equal(after[name], base[name] + delta[name])


@pytest.mark.parametrize(
    ("config", "reference"),
    [
        (
            OptimizerConfig(kind="fedavg", learning_rate=0.3),
            lambda start, deltas: fedavgm(start, deltas, 0.3, 0.0),
        ),
        (OptimizerConfig(kind="fedavgm"), lambda start, deltas: fedavgm(start, deltas, 1.0, 0.9)),
        (
            OptimizerConfig(kind="fedavgm", learning_rate=0.2, momentum=0.5),
            lambda start, deltas: fedavgm(start, deltas, 0.2, 0.5),
        ),
        (
            OptimizerConfig(kind="fedadam"),
            lambda start, deltas: fedadam(start, deltas, 0.01, 0.9, 0.99, 1e-3),
        ),
        (
            OptimizerConfig(kind="fedadam", learning_rate=0.1, momentum=0.8, beta2=0.95, tau=0.1),
            lambda start, deltas: fedadam(start, deltas, 0.1, 0.8, 0.95, 0.1),
        ),
        (
            OptimizerConfig(kind="fedyogi"),
            lambda start, deltas: fedyogi(start, deltas, 0.01, 0.9, 0.99, 1e-3),
        ),
        (
            OptimizerConfig(kind="fedyogi", learning_rate=0.1, momentum=0.8, beta2=0.95, tau=0.1),
            lambda start, deltas: fedyogi(start, deltas, 0.1, 0.8, 0.95, 0.1),
        ),
    ],
)
def test_several_steps_equal_the_paper(
    config: OptimizerConfig, reference: Callable[[Vector, list[Vector]], list[Vector]]
) -> None:
    path = run(config)
    for name, start in drawn(0).items():
        expected = reference(start.astype(np.float64), [delta[name].astype(np.float64) for delta in DELTAS])
        for weights, exact in zip(path, expected, strict=True):
            np.testing.assert_allclose(weights[name], exact, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_restart_after_any_round_continues_to_the_same_bits(kind: str) -> None:
    config = OptimizerConfig.model_validate({"kind": kind})
    unbroken = ServerOptimizer(drawn(0), config)
    for delta, remade in zip(DELTAS, run(config), strict=True):
        after = unbroken.step(delta)
        assert all(after[name].tobytes() == remade[name].tobytes() for name in after)


@pytest.mark.parametrize("kind", KINDS)
def test_the_optimiser_neither_changes_nor_keeps_what_it_is_given(kind: str) -> None:
    base, delta = drawn(0), drawn(1)
    for value in (*base.values(), *delta.values()):
        value.flags.writeable = False
    optimizer = ServerOptimizer(base, OptimizerConfig.model_validate({"kind": kind}))
    first = optimizer.step(delta)
    kept = {name: value.tobytes() for name, value in first.items()}
    optimizer.step(delta)
    assert {name: value.tobytes() for name, value in first.items()} == kept
    assert all(value.tobytes() == drawn(0)[name].tobytes() for name, value in base.items())


@pytest.mark.parametrize("before", KINDS)
@pytest.mark.parametrize("after", KINDS)
def test_another_kind_of_optimiser_starts_without_the_memory_of_the_old(before: str, after: str) -> None:
    # An operator may edit server.toml between two starts; the round after it must not fail.
    old = ServerOptimizer(drawn(0), OptimizerConfig.model_validate({"kind": before}))
    weights = old.step(DELTAS[0])
    config = OptimizerConfig.model_validate({"kind": after})
    changed, fresh = ServerOptimizer(weights, config), ServerOptimizer(weights, config)
    changed.recall(old.memory())
    if before != after:
        stepped, expected = changed.step(DELTAS[1]), fresh.step(DELTAS[1])
        assert all(stepped[name].tobytes() == expected[name].tobytes() for name in weights)
    else:
        assert all(np.isfinite(value).all() for value in changed.step(DELTAS[1]).values())
