"""tc-window: an embedding centred and white among sounds of one kind, and a head that is linear in it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from common.models.registry import build_model
from common.models.tc_window import SHRINKAGE, TcWindow
from common.task import Task

TASK = Task(labels=("a", "b", "c"), architecture="tc-window", width=16)


def made() -> TcWindow:
    model = build_model(TASK, torch.Generator().manual_seed(0))
    assert isinstance(model, TcWindow)
    return model


def sounds(kinds: int, of_each: int) -> tuple[Tensor, Tensor]:
    """Embeddings (N, 16) of kinds far apart, which within vary a lot in some directions."""
    generator = torch.Generator().manual_seed(1)
    mixing = torch.randn(16, 16, generator=generator) * torch.logspace(-1, 1, 16)
    centres = 50 * torch.randn(kinds, 16, generator=generator)
    labels = torch.arange(kinds).repeat(of_each)
    return centres[labels] + torch.randn(len(labels), 16, generator=generator) @ mixing.T, labels


def covariance(values: Tensor, labels: Tensor) -> Tensor:
    within = torch.cat([values[labels == kind] - values[labels == kind].mean(0) for kind in labels.unique()])
    return within.T @ within / len(within)


def test_embeddings_are_centred_and_white_within_a_kind() -> None:
    model, (pooled, kinds) = made(), sounds(5, 400)
    before = covariance(pooled.double(), kinds)
    model.whiten_by(pooled, kinds)
    with torch.no_grad():
        embedded = model.whiten(pooled)
    assert embedded.mean(0).abs().max() < 1e-3
    # v becomes v / (v + shrinkage), with v in mean variances.
    variances = torch.linalg.eigvalsh(before) / before.diagonal().mean()
    torch.testing.assert_close(
        torch.linalg.eigvalsh(covariance(embedded.double(), kinds)),
        variances / (variances + SHRINKAGE),
        atol=1e-4,
        rtol=1e-3,
    )


def test_kinds_stay_apart() -> None:
    """Only what differs within a kind is evened out: distances between kinds are what is to be learned."""
    model, (pooled, kinds) = made(), sounds(3, 400)
    model.whiten_by(pooled, kinds)
    with torch.no_grad():
        embedded = model.whiten(pooled)
    centres = torch.stack([embedded[kinds == kind].mean(0) for kind in range(3)])
    assert torch.pdist(centres).min() > 5 * covariance(embedded, kinds).diagonal().mean().sqrt()


@pytest.mark.parametrize("count", [1, 3])
def test_few_sounds_give_finite_numbers(count: int) -> None:
    model = made()
    model.whiten_by(torch.ones(count, 16), torch.arange(count))
    assert all(value.isfinite().all() for value in model.parameters())


def test_the_logits_are_linear_in_the_embedding_and_the_head_has_nothing_else() -> None:
    model = made()
    features = torch.randn(4, 98, 40, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        embedding = model.whiten(model.pooled(features))
        expected = embedding @ model.classify.weight.T + model.classify.bias
        torch.testing.assert_close(model(features), expected)


@pytest.mark.parametrize("frames", [1, 50, 301])
def test_a_body_takes_windows_of_any_length(frames: int) -> None:
    assert made()(torch.randn(2, frames, 40)).shape == (2, 3)
