"""Training under DP-SGD: what is spent, what cannot be left out, and that it still learns."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from opacus.accountants import RDPAccountant

from common.audio.batch import BatchFrontEnd
from common.data.features import FeatureSet
from common.errors import TrainingError
from common.models.acoustic import AcousticModel
from common.privacy.secure_random import SecureRandom
from common.protocol.plan import Augmentation, Privacy, Recipe
from common.training import micro_batch
from common.training.metrics import evaluate
from common.training.trainer import TrainReport, train

MakeToy = Callable[..., FeatureSet]
MakeModel = Callable[..., AcousticModel]
Run = Callable[..., tuple[TrainReport, torch.Tensor]]

KEY = bytes(range(32))
GENTLE = Augmentation(shift_seconds=0.03, time_mask_seconds=0.03, band_mask_bands=2)
SGD = Recipe(optimizer="sgd", learning_rate=1.0, momentum=0.0, weight_decay=0.0, augmentation=GENTLE)


@pytest.fixture
def run(front_end: BatchFrontEnd, make_toy: MakeToy, make_model: MakeModel) -> Run:
    """run(recipe, privacy, data, key) -> (report, change of the weights)."""

    def run(
        recipe: Recipe, privacy: Privacy, data: FeatureSet | None = None, key: bytes | None = KEY
    ) -> tuple[TrainReport, torch.Tensor]:
        model = make_model()
        start = flat(model)
        report = train(
            model,
            front_end,
            make_toy(24) if data is None else data,
            recipe,
            torch.Generator().manual_seed(0),
            privacy=privacy,
            test_random=SecureRandom(key) if key else None,
        )
        return report, flat(model) - start

    return run


def flat(model: AcousticModel) -> torch.Tensor:
    return torch.cat([value.detach().flatten() for value in model.parameters()])


def but(recipe: Recipe, **changes: object) -> Recipe:
    return Recipe.model_validate({**recipe.model_dump(), **changes})


def test_it_learns_where_the_noise_is_small(
    front_end: BatchFrontEnd, make_toy: MakeToy, make_model: MakeModel
) -> None:
    model = make_model()
    recipe = Recipe(epochs=16, learning_rate=5e-3, augmentation=GENTLE)
    train(
        model,
        front_end,
        make_toy(90),
        recipe,
        torch.Generator().manual_seed(0),
        privacy=Privacy(noise_multiplier=0.05),
        test_random=SecureRandom(KEY),
    )
    assert evaluate(model, front_end, make_toy(60, seed=99)).accuracy > 0.9


def test_what_is_spent_is_what_opacus_counts(run: Run, make_toy: MakeToy) -> None:
    report, _ = run(but(SGD, batch_size=6, epochs=3), Privacy(noise_multiplier=1.3, delta=1e-4))
    accountant = RDPAccountant()
    for _ in range(12):
        accountant.step(noise_multiplier=1.3, sample_rate=0.25)
    spent = report.privacy
    assert spent is not None
    assert (report.steps, spent.steps, spent.sampling_rate, spent.unit) == (12, 12, 0.25, "one clip")
    assert spent.epsilon == pytest.approx(accountant.get_epsilon(1e-4), rel=1e-9)


def test_the_sampling_rate_counts_clips_not_windows(run: Run, make_toy: MakeToy) -> None:
    report, _ = run(but(SGD, batch_size=6, epochs=1), Privacy(), make_toy(24, windows=3))
    assert report.privacy is not None
    assert (report.privacy.sampling_rate, report.steps, report.clips) == (0.25, 4, 72)


def test_one_step_moves_the_weights_by_noise_of_the_right_size(run: Run) -> None:
    """The noise's norm is sigma C sqrt(d) over the expected batch; the gradient's part is small beside it."""
    noise, clip, batch = 4.0, 0.5, 8
    _, moved = run(but(SGD, batch_size=batch, steps=1), Privacy(noise_multiplier=noise, clipping_norm=clip))
    expected = noise * clip * np.sqrt(len(moved)) / batch
    assert float(moved.norm()) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("windows", [1, 3])
def test_a_clip_moves_a_step_by_at_most_the_clipping_norm(run: Run, make_toy: MakeToy, windows: int) -> None:
    """All clips are sampled, the noise is the same; the clip that changes comes before the others' draws."""
    data = make_toy(12, windows=windows)
    energies = data.energies.copy()
    energies[data.clip_index == 0] = 0.0
    changed = FeatureSet(energies, data.labels, data.clip_index)
    recipe, privacy = but(SGD, batch_size=12, steps=1), Privacy(noise_multiplier=0.01, clipping_norm=0.3)
    difference = run(recipe, privacy, data)[1] - run(recipe, privacy, changed)[1]
    assert 0 < float(difference.norm()) * 12 <= 2 * 0.3 * (1 + 1e-3)  # out with one gradient, in with another


def test_empty_samples_are_steps_of_noise_alone(run: Run, make_toy: MakeToy) -> None:
    """With one of 24 clips expected a step, about a third of the samples are empty."""
    report, moved = run(but(SGD, batch_size=1, learning_rate=1e-3, steps=40), Privacy())
    assert report.steps == 40
    assert moved.isfinite().all()


def test_a_single_clip_works(run: Run, make_toy: MakeToy) -> None:
    report, moved = run(but(SGD, steps=3), Privacy(), make_toy(1))
    assert report.privacy is not None
    assert report.privacy.sampling_rate == 1.0
    assert moved.count_nonzero() > 0


def test_micro_batches_clip_each_clip_and_noise_once(
    run: Run, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, privacy = but(SGD, batch_size=16, steps=1), Privacy(noise_multiplier=0.5)
    _, whole = run(recipe, privacy)
    monkeypatch.setattr(micro_batch, "LARGEST_ALLOCATION", 20_000)
    assert 1 < micro_batch.micro_batch_size(make_model(), 28, 12, per_sample_gradients=True) < 8
    _, parts = run(recipe, privacy)
    # The noise draws differ only by rounding, were they drawn per part the two would have little in common.
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-4)


def test_noise_is_not_seeded(run: Run) -> None:
    recipe = but(SGD, steps=1)
    assert torch.equal(run(recipe, Privacy())[1], run(recipe, Privacy())[1])
    assert not torch.equal(run(recipe, Privacy(), key=None)[1], run(recipe, Privacy(), key=None)[1])


def test_penalties_act_after_the_noise_and_cost_nothing(run: Run) -> None:
    """They depend on the weights alone: the same sample and noise, and the penalty's own gradient on top."""
    plain, _ = run(but(SGD, steps=1), Privacy())
    lean, _ = run(but(SGD, steps=1, l1=0.01), Privacy())
    assert plain.privacy == lean.privacy
    moved, lean_moved = (run(but(SGD, steps=1, l1=l1), Privacy())[1] for l1 in (0.0, 0.01))
    difference = moved - lean_moved
    touched = difference.abs() > 1e-6
    torch.testing.assert_close(
        difference[touched].abs(), torch.full_like(difference[touched], 0.01), atol=1e-5, rtol=0
    )
    assert touched.float().mean() > 0.8


def test_no_steps_cost_nothing(run: Run) -> None:
    report, moved = run(but(SGD, steps=0), Privacy())
    assert report.privacy is not None
    assert (report.privacy.epsilon, report.privacy.steps) == (0.0, 0)
    assert moved.count_nonzero() == 0


def test_too_little_noise_is_refused_before_any_step(run: Run) -> None:
    with pytest.raises(TrainingError, match="FA-7005"):
        run(SGD, Privacy(noise_multiplier=0.001))
