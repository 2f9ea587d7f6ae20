"""No unit moves a step by more than the clipping norm, whatever its gradient and however it is clipped."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from common.privacy.clipping import AdaptiveClipping, Clipping, PerLayerClipping, clipping_for
from common.privacy.dp_sgd import poisson_sample, private_sum
from common.privacy.grid import Grid
from common.privacy.secure_random import SecureRandom
from common.protocol.plan import Privacy

KEY = bytes(32)
MODEL = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
COLUMNS = sum(value.numel() for value in MODEL.parameters())
KINDS = ("flat", "per-layer", "adaptive")

rows_of_any_kind = st.integers(0, 6).flatmap(
    lambda count: st.lists(
        st.lists(st.floats(width=32), min_size=COLUMNS, max_size=COLUMNS), min_size=count, max_size=count
    )
)


def clipping(kind: str, norm: float = 1.0, noise: float = 1.0, expected: float = 8.0) -> Clipping:
    privacy = Privacy.model_validate({"clipping": kind, "clipping_norm": norm, "noise_multiplier": noise})
    return clipping_for(privacy, MODEL, expected)


@pytest.mark.parametrize("kind", KINDS)
@given(values=rows_of_any_kind, norm=st.floats(1e-3, 100))
@settings(max_examples=60, deadline=None)
def test_no_row_is_longer_than_the_norm(kind: str, values: list[list[float]], norm: float) -> None:
    rows = torch.tensor(values).reshape(-1, COLUMNS)
    whole = rows.isfinite().all(dim=1)
    before = rows.clone()
    clipping(kind, norm).shorten(rows)
    assert rows.isfinite().all()
    assert (rows.double().norm(dim=1) <= norm * (1 + 1e-5)).all()
    assert (rows[~whole] == 0).all()
    if kind == "flat":  # what is short already stays as it is
        short = whole & (before.double().norm(dim=1) < norm * 0.999)
        assert torch.equal(rows[short], before[short])


@pytest.mark.parametrize("kind", KINDS)
@given(values=rows_of_any_kind, extra=st.lists(st.floats(width=32), min_size=COLUMNS, max_size=COLUMNS))
@settings(max_examples=60, deadline=None)
def test_one_unit_more_changes_the_sum_by_at_most_the_norm(
    kind: str, values: list[list[float]], extra: list[float]
) -> None:
    """The same noise under both sums, so that their difference is the unit's part."""
    rows, one = torch.tensor(values).reshape(-1, COLUMNS), torch.tensor([extra])
    sums = [
        private_sum([part.clone() for part in parts], COLUMNS, clipping(kind), SecureRandom(KEY))
        for parts in ([rows], [rows, one])
    ]
    assert float((sums[1] - sums[0]).norm()) <= 1 + 1e-4


def test_clipping_keeps_a_rows_direction() -> None:
    rows = torch.randn(5, COLUMNS, generator=torch.Generator().manual_seed(0)) * 50
    before = rows.clone()
    clipping("flat", 0.3).shorten(rows)
    torch.testing.assert_close(rows, before * (0.3 / before.norm(dim=1, keepdim=True)))


def test_each_layer_is_clipped_by_itself() -> None:
    rows = torch.cat((torch.full((1, 8), 100.0), torch.full((1, 6), 1e-3)), dim=1)
    clipping("per-layer").shorten(rows)
    assert float(rows[0, :8].norm()) == pytest.approx(1 / math.sqrt(2))
    assert torch.equal(rows[0, 8:], torch.full((6,), 1e-3))


def test_layers_that_are_frozen_have_no_share() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    kept = PerLayerClipping(Privacy(clipping="per-layer"), model)
    model[0].requires_grad_(False)
    rows = torch.full((1, 6), 100.0)
    kept.shorten(rows)
    assert float(rows.norm()) == pytest.approx(1.0)


@pytest.mark.parametrize("quantile", [0.3, 0.8])
def test_an_adaptive_norm_finds_the_quantile(quantile: float) -> None:
    """Rows of length 1..100 of which a Poisson sample of half comes each step."""
    privacy = Privacy(clipping="adaptive", clipping_norm=5.0, quantile=quantile, noise_multiplier=1.0)
    adaptive, random = AdaptiveClipping(privacy, expected=50.0), SecureRandom(KEY)
    lengths, norms = torch.arange(1.0, 101.0), []
    for _ in range(150):
        drawn = poisson_sample(100, 0.5, random)
        rows = torch.zeros(len(drawn), 4)
        rows[:, 0] = lengths[drawn]
        adaptive.shorten(rows)
        adaptive.end_step(random)
        norms.append(adaptive.norm)
    assert np.mean(norms[75:]) == pytest.approx(100 * quantile, rel=0.12)


@given(noise=st.floats(0.05, 20), expected=st.floats(1, 500))
def test_the_count_and_the_sum_cost_together_what_the_plan_says(noise: float, expected: float) -> None:
    """Andrew et al. 2021, theorem 1: the squares of signal to noise add up."""
    adaptive = AdaptiveClipping(Privacy(clipping="adaptive", noise_multiplier=noise), expected)
    count_noise = adaptive._grid.step * Grid(1.0, 1.0).step ** -1 / 0.5  # over the half that a unit counts
    assert adaptive.noise_multiplier**-2 + count_noise**-2 == pytest.approx(noise**-2, rel=1e-9)
    assert noise < adaptive.noise_multiplier <= 1.16 * noise


def test_the_count_is_noised() -> None:
    privacy = Privacy(clipping="adaptive")
    moved = set()
    for _ in range(8):
        adaptive = AdaptiveClipping(privacy, expected=10.0)
        # Half are shorter than the norm: five deviations of the count from where the share is cut off.
        adaptive.shorten(torch.cat((torch.zeros(5, 3), torch.full((5, 3), 9.0))))
        adaptive.end_step(SecureRandom())
        moved.add(adaptive.norm)
    assert len(moved) > 6


def test_the_norm_of_a_step_does_not_depend_on_the_steps_own_rows() -> None:
    adaptive = clipping("adaptive")
    rows: list[Tensor] = [torch.randn(3, COLUMNS) * 10 for _ in range(3)]
    for part in rows:
        adaptive.shorten(part)
        assert adaptive.norm == 1.0
    adaptive.end_step(SecureRandom(KEY))
    assert adaptive.norm != 1.0
