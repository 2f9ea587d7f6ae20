from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from scipy import stats
from torch import Tensor

from common.models.acoustic import AcousticModel
from common.models.registry import ARCHITECTURES, build_model
from common.privacy.dp_sgd import Gradient, add_noise, clipped_sum, poisson_sample
from common.privacy.secure_random import SecureRandom
from common.task import Task

KEY = bytes(32)


def model_and_batch(architecture: str = "tc-stream") -> tuple[AcousticModel, Tensor, Tensor]:
    task = Task(labels=("a", "b", "c"), architecture=architecture, width=16)
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(6, task.clip_frames, task.front_end.features, generator=generator)
    return build_model(task, generator), features, torch.tensor([0, 1, 2, 0, 1, 2])


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none")


def norm(gradient: Gradient) -> float:
    return float(torch.cat([value.flatten() for value in gradient.values()]).norm())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_clipped_gradient_is_that_of_opacus(architecture: str) -> None:
    model, features, labels = model_and_batch(architecture)
    norms = [norm(clipped_sum(model, features[[i]], labels[[i]], loss, 1e9)[0]) for i in range(6)]
    bound = float(np.median(norms))  # half of the samples are clipped, half are not
    mine, mean = clipped_sum(model, features, labels, loss, bound)

    # Opacus's own rule for Conv2d takes every image for contiguous (`unfold2d`), which those here are not.
    reference = GradSampleModule(copy.deepcopy(model), force_functorch=True)
    optimizer = DPOptimizer(
        torch.optim.SGD(reference.parameters(), lr=1.0),
        noise_multiplier=0.0,
        max_grad_norm=bound,
        expected_batch_size=6,
    )
    F.cross_entropy(reference(features), labels).backward()
    optimizer.clip_and_accumulate()
    for name, value in reference._module.named_parameters():
        torch.testing.assert_close(mine[name], value.summed_grad, atol=1e-6, rtol=1e-5)
    assert mean / 6 == pytest.approx(F.cross_entropy(model(features), labels).item(), rel=1e-5)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_one_sample_moves_the_sum_by_at_most_the_clipping_norm(scale: float) -> None:
    model, features, labels = model_and_batch()
    bound = 0.7
    with_it, _ = clipped_sum(model, features, labels, loss, bound)
    without, _ = clipped_sum(model, features[1:], labels[1:], loss, bound)
    other = features.clone()
    other[0] *= -scale
    with_other, _ = clipped_sum(model, other, labels, loss, bound)
    removed = {name: with_it[name] - without[name] for name in with_it}
    added = {name: with_other[name] - without[name] for name in with_it}
    assert 0 < norm(removed) <= bound * (1 + 1e-4)
    assert norm(added) <= bound * (1 + 1e-4)


def test_a_gradient_that_is_not_finite_counts_as_zero() -> None:
    model, features, labels = model_and_batch()
    broken = features.clone()
    broken[2] = torch.nan
    keep = [0, 1, 3, 4, 5]
    total, mean = clipped_sum(model, broken, labels, loss, 1.0)
    expected, expected_mean = clipped_sum(model, features[keep], labels[keep], loss, 1.0)
    assert mean == pytest.approx(expected_mean, rel=1e-5)
    for name, value in total.items():
        torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=1e-5)


def test_noise_has_the_asked_deviation_on_every_value() -> None:
    zero = {"a": torch.zeros(200, 300), "b": torch.zeros(7)}
    noised = add_noise(zero, 2.5, SecureRandom(KEY))
    draws = noised["a"].flatten().numpy()
    assert stats.kstest(draws, "norm", args=(0, 2.5)).pvalue > 1e-3
    assert noised["b"].count_nonzero() == 7
    assert not torch.equal(noised["a"][0, :7], noised["b"])
    shifted = add_noise({"a": torch.ones(200, 300), "b": torch.ones(7)}, 2.5, SecureRandom(KEY))
    torch.testing.assert_close(shifted["a"] - 1, noised["a"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("rate", [0.03, 0.5, 1.0])
def test_sampling_is_poisson(rate: float) -> None:
    random = SecureRandom(KEY)
    drawn = np.zeros((400, 200), bool)
    for row in drawn:
        row[poisson_sample(200, rate, random)] = True
    assert drawn.mean() == pytest.approx(rate, abs=4 * np.sqrt(rate * (1 - rate) / drawn.size))
    spread = 200 * rate * (1 - rate)  # the size of a sample varies as a binomial's: no fixed batches
    assert drawn.sum(axis=1).var() == pytest.approx(spread, rel=0.35)


def test_a_sample_may_be_empty() -> None:
    random = SecureRandom(KEY)
    sizes = [len(poisson_sample(3, 0.2, random)) for _ in range(100)]
    assert min(sizes) == 0
