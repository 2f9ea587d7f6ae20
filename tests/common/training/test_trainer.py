"""The recipe's every word has the effect it names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from common.audio.batch import BatchFrontEnd
from common.data.features import FeatureSet
from common.errors import TrainingError
from common.models.acoustic import AcousticModel
from common.protocol.plan import STILL, Augmentation, Recipe
from common.training import micro_batch
from common.training.metrics import evaluate
from common.training.trainer import TrainReport, train

MakeToy = Callable[..., FeatureSet]
MakeModel = Callable[..., AcousticModel]

SGD = Recipe(
    optimizer="sgd",
    learning_rate=0.05,
    momentum=0.0,
    weight_decay=0.0,
    gradient_clip=0,
    label_smoothing=0.0,
    augmentation=STILL,
)


@pytest.fixture
def run(front_end: BatchFrontEnd, make_toy: MakeToy, make_model: MakeModel) -> Any:
    """run(recipe, data, seed) -> (report, flat weights, model), each time from the same initial weights."""

    def run(
        recipe: Recipe, data: FeatureSet | None = None, seed: int = 0
    ) -> tuple[TrainReport, torch.Tensor, AcousticModel]:
        model = make_model()
        generator = torch.Generator().manual_seed(seed)
        report = train(model, front_end, make_toy(12) if data is None else data, recipe, generator)
        return report, flat(model), model

    return run


def flat(model: AcousticModel) -> torch.Tensor:
    return torch.cat([value.detach().flatten() for value in model.parameters()])


def but(recipe: Recipe, **changes: object) -> Recipe:
    return Recipe.model_validate({**recipe.model_dump(), **changes})


def test_a_small_model_learns_a_separable_set(
    front_end: BatchFrontEnd, make_toy: MakeToy, make_model: MakeModel
) -> None:
    model, unseen = make_model(), make_toy(60, seed=99)
    before = evaluate(model, front_end, unseen).accuracy
    gentle = Augmentation(shift_seconds=0.03, time_mask_seconds=0.03, band_mask_bands=2)
    recipe = Recipe(epochs=8, learning_rate=5e-3, augmentation=gentle)
    report = train(model, front_end, make_toy(90), recipe, torch.Generator().manual_seed(0))
    after = evaluate(model, front_end, unseen)
    assert before < 0.7
    assert after.accuracy > 0.9
    assert (report.clips, report.steps, report.privacy) == (90, 8 * 6, None)
    assert report.loss < 1.1


def test_the_seed_decides_everything(run: Any) -> None:
    first, again, other = (run(Recipe(), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first[1], again[1])
    assert first[0] == again[0]
    assert not torch.equal(first[1], other[1])


def test_nothing_is_drawn_from_the_global_generator(run: Any) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    run(Recipe())
    assert torch.equal(torch.get_rng_state(), before)


def test_epochs_are_passes_and_steps_override_them(run: Any, make_toy: MakeToy) -> None:
    assert run(but(SGD, batch_size=5, epochs=3))[0].steps == 9  # 12 clips are 3 batches, the last one short
    assert run(but(SGD, batch_size=5, epochs=3, steps=4))[0].steps == 4
    assert torch.equal(run(but(SGD, batch_size=5, epochs=3))[1], run(but(SGD, batch_size=5, steps=9))[1])
    assert run(but(SGD, batch_size=4096, epochs=2), make_toy(1))[0].steps == 2


def test_no_steps_train_nothing_and_say_so(run: Any, make_model: MakeModel) -> None:
    report, weights, _ = run(but(SGD, steps=0))
    assert (report.steps, report.loss) == (0, 0.0)
    assert torch.equal(weights, flat(make_model()))


def test_an_epoch_sees_every_window_once(run: Any) -> None:
    """One pass of plain SGD with a tiny rate moves the weights by the rate times the sum of all gradients."""
    whole = run(but(SGD, learning_rate=1e-5, batch_size=12, epochs=1))[1]
    for seed in (1, 2):
        parts = run(but(SGD, learning_rate=4e-5 / 3 * 0.25, batch_size=4, epochs=1), seed=seed)[1]
        torch.testing.assert_close(parts, whole, atol=2e-7, rtol=0)


def test_micro_batches_give_the_gradient_of_the_batch(
    run: Any, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = but(SGD, batch_size=12, steps=1, learning_rate=1.0)
    start, whole = flat(make_model()), run(recipe)[1]
    monkeypatch.setattr(micro_batch, "LARGEST_ALLOCATION", 30_000)
    size = micro_batch.micro_batch_size(make_model(), 28, 12, per_sample_gradients=False)
    assert 1 < size < 12
    torch.testing.assert_close(run(recipe)[1] - start, whole - start, atol=1e-5, rtol=1e-5)


def test_no_allocation_of_a_micro_batch_exceeds_the_limit(make_model: MakeModel) -> None:
    size = micro_batch.micro_batch_size(make_model(), 28, 12, per_sample_gradients=False)
    # The largest tensor for one window: 16 channels of 28 frames and the 32 frames of context before them.
    assert size == micro_batch.LARGEST_ALLOCATION // (4 * 16 * (28 + 32))


def test_a_micro_batch_is_never_empty(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(micro_batch, "LARGEST_ALLOCATION", 100)
    assert micro_batch.micro_batch_size(make_model(), 28, 12, per_sample_gradients=True) == 1


def test_l1_drives_weights_down_and_spares_norms(run: Any) -> None:
    recipe = but(SGD, learning_rate=0.02, epochs=40)
    _, _, free = run(recipe)
    _, _, lean = run(but(recipe, l1=0.1))
    small = {name: float((value.abs() < 1e-3).float().mean()) for name, value in lean.named_parameters()}
    for name, value in lean.named_parameters():
        if value.dim() > 1:
            assert value.abs().sum() < 0.9 * dict(free.named_parameters())[name].abs().sum(), name
        elif name.endswith("norm.weight"):
            assert small[name] == 0, name


def test_gradient_clipping_bounds_a_step(run: Any, make_model: MakeModel) -> None:
    start = flat(make_model())
    recipe = but(SGD, batch_size=12, steps=1, learning_rate=1.0)
    assert (run(recipe)[1] - start).norm() > 0.2
    assert (run(but(recipe, gradient_clip=0.1))[1] - start).norm() == pytest.approx(0.1, rel=1e-3)


def test_label_smoothing_keeps_scores_modest(run: Any, front_end: BatchFrontEnd, make_toy: MakeToy) -> None:
    """No smoothed loss lies below the entropy of its target; without smoothing the loss goes on to zero."""
    recipe = but(SGD, optimizer="adamw", learning_rate=0.01, epochs=25)
    sharp, _, _ = run(recipe)
    smooth, _, _ = run(but(recipe, label_smoothing=0.3))
    target = torch.tensor([0.8, 0.1, 0.1])
    entropy = -(target * target.log()).sum()
    assert smooth.loss > entropy > sharp.loss


def test_no_clips_is_a_clear_error(run: Any, make_toy: MakeToy) -> None:
    with pytest.raises(TrainingError, match="FA-7003"):
        run(SGD, make_toy(0))


def test_a_training_that_runs_away_is_a_clear_error(run: Any) -> None:
    with pytest.raises(TrainingError, match=r"FA-7004.*learning rate"):
        run(but(SGD, learning_rate=10.0, momentum=0.9, weight_decay=1.0, epochs=300))


def test_recorded_noise_is_used_and_must_fit(
    front_end: BatchFrontEnd, make_toy: MakeToy, make_model: MakeModel
) -> None:
    recipe = but(SGD, augmentation=STILL.model_copy(update={"noise_probability": 1.0}))
    results = []
    for noise in (None, make_toy(3, seed=1), make_toy(3, seed=2)):
        model = make_model()
        train(model, front_end, make_toy(12), recipe, torch.Generator().manual_seed(0), noise=noise)
        results.append(flat(model))
    assert not torch.equal(results[0], results[1])
    assert not torch.equal(results[1], results[2])
    other = FeatureSet(np.ones((2, 9, 12), np.float32), np.full(2, -1), np.arange(2))
    with pytest.raises(TrainingError, match="FA-7006"):
        train(make_model(), front_end, make_toy(12), recipe, torch.Generator(), noise=other)
