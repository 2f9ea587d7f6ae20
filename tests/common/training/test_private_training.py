"""Training under DP-SGD: what is spent, what cannot be left out, and that it still learns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from opacus.accountants import RDPAccountant

from common.audio.batch import BatchFrontEnd
from common.data.features import FeatureSet
from common.errors import TrainingError
from common.models.acoustic import AcousticModel
from common.models.registry import build_model
from common.privacy.clipping import FlatClipping
from common.privacy.grid import SIGMA, Grid
from common.privacy.secure_random import SecureRandom
from common.protocol.plan import Augmentation, Privacy, Recipe
from common.task import Task
from common.training import micro_batch
from common.training.examples import Augmented
from common.training.gradients import PrivateGradients
from common.training.metrics import evaluate
from common.training.trainer import TrainReport, train, uncounted

MakeToy = Callable[..., FeatureSet]
MakeModel = Callable[..., AcousticModel]
Run = Callable[..., tuple[TrainReport, torch.Tensor]]

KEY = bytes(range(32))
GENTLE = Augmentation(shift_seconds=0.03, time_mask_seconds=0.03, band_mask_bands=2)
STILL = Augmentation(shift_seconds=0, gain_db=0, noise_probability=0, time_masks=0, band_masks=0)
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
            before_spending=uncounted,
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
        privacy=Privacy(units=0, noise_multiplier=0.05),
        before_spending=uncounted,
        test_random=SecureRandom(KEY),
    )
    assert evaluate(model, front_end, make_toy(60, seed=99)).accuracy > 0.9


def test_what_is_spent_is_what_opacus_counts(run: Run, make_toy: MakeToy) -> None:
    report, _ = run(but(SGD, batch_size=6, epochs=3), Privacy(units=0, noise_multiplier=1.3, delta=1e-4))
    accountant = RDPAccountant()
    for _ in range(12):
        accountant.step(noise_multiplier=1.3, sample_rate=0.25)
    spent = report.privacy
    assert spent is not None
    assert (report.steps, spent.steps, spent.sampling_rate, spent.unit) == (12, 12, 0.25, "clip")
    assert spent.epsilon == pytest.approx(accountant.get_epsilon(1e-4), rel=1e-9)


def test_the_sampling_rate_counts_clips_not_windows(run: Run, make_toy: MakeToy) -> None:
    report, _ = run(but(SGD, batch_size=6, epochs=1), Privacy(units=0), make_toy(24, windows=3))
    assert report.privacy is not None
    assert (report.privacy.sampling_rate, report.steps, report.clips) == (0.25, 4, 72)


def test_one_step_moves_the_weights_by_noise_of_the_right_size(run: Run) -> None:
    """The noise's norm is sigma C sqrt(d) over the expected batch; the gradient's part is small beside it."""
    noise, clip, batch = 4.0, 0.5, 8
    _, moved = run(
        but(SGD, batch_size=batch, steps=1), Privacy(units=0, noise_multiplier=noise, clipping_norm=clip)
    )
    expected = noise * clip * np.sqrt(len(moved)) / batch
    assert float(moved.norm()) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("windows", [1, 3])
def test_a_clip_moves_a_step_by_at_most_the_clipping_norm(run: Run, make_toy: MakeToy, windows: int) -> None:
    """All clips are sampled, the noise is the same; the clip that changes comes before the others' draws."""
    data = make_toy(12, windows=windows)
    energies = data.energies.copy()
    energies[data.clip_index == 0] = 0.0
    changed = replace(data, energies=energies)
    recipe, privacy = (
        but(SGD, batch_size=12, steps=1),
        Privacy(units=0, noise_multiplier=0.01, clipping_norm=0.3),
    )
    difference = run(recipe, privacy, data)[1] - run(recipe, privacy, changed)[1]
    assert 0 < float(difference.norm()) * 12 <= 2 * 0.3 * (1 + 1e-3)  # out with one gradient, in with another


def test_empty_samples_are_steps_of_noise_alone(run: Run, make_toy: MakeToy) -> None:
    """With one of 24 clips expected a step, about a third of the samples are empty."""
    report, moved = run(but(SGD, batch_size=1, learning_rate=1e-3, steps=40), Privacy(units=0))
    assert report.steps == 40
    assert moved.isfinite().all()


def test_a_single_clip_works(run: Run, make_toy: MakeToy) -> None:
    report, moved = run(but(SGD, steps=3), Privacy(units=0), make_toy(1))
    assert report.privacy is not None
    assert report.privacy.sampling_rate == 1.0
    assert moved.count_nonzero() > 0


def test_micro_batches_clip_each_clip_and_noise_once(
    run: Run, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, privacy = but(SGD, batch_size=16, steps=1), Privacy(units=0, noise_multiplier=0.5)
    _, whole = run(recipe, privacy)
    monkeypatch.setattr(micro_batch, "LARGEST_ALLOCATION", 200_000)
    assert 1 < micro_batch.micro_batch_size(make_model(), 28, 12, per_sample_gradients=True) < 8
    _, parts = run(recipe, privacy)
    # The noise draws differ only by rounding, were they drawn per part the two would have little in common.
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-4)


def test_noise_is_not_seeded(run: Run) -> None:
    recipe = but(SGD, steps=1)
    assert torch.equal(run(recipe, Privacy(units=0))[1], run(recipe, Privacy(units=0))[1])
    assert not torch.equal(
        run(recipe, Privacy(units=0), key=None)[1], run(recipe, Privacy(units=0), key=None)[1]
    )


def test_penalties_act_after_the_noise_and_cost_nothing(run: Run) -> None:
    """They depend on the weights alone: the same sample and noise, and the penalty's own gradient on top."""
    plain, _ = run(but(SGD, steps=1), Privacy(units=0))
    lean, _ = run(but(SGD, steps=1, l1=0.01), Privacy(units=0))
    assert plain.privacy == lean.privacy
    moved, lean_moved = (run(but(SGD, steps=1, l1=l1), Privacy(units=0))[1] for l1 in (0.0, 0.01))
    difference = moved - lean_moved
    touched = difference.abs() > 1e-6
    torch.testing.assert_close(
        difference[touched].abs(), torch.full_like(difference[touched], 0.01), atol=1e-5, rtol=0
    )
    assert touched.float().mean() > 0.8


def test_no_steps_cost_nothing(run: Run) -> None:
    report, moved = run(but(SGD, steps=0), Privacy(units=0))
    assert report.privacy is not None
    assert (report.privacy.epsilon, report.privacy.steps) == (0.0, 0)
    assert moved.count_nonzero() == 0


def test_too_little_noise_is_refused_before_any_step(run: Run) -> None:
    with pytest.raises(TrainingError, match="FA-7005"):
        run(SGD, Privacy(units=0, noise_multiplier=0.001))


def of_speakers(data: FeatureSet, speakers: list[int]) -> FeatureSet:
    """Clip i is of speakers[i]."""
    return replace(data, speakers=np.array(speakers)[data.clip_index])


def test_a_speaker_moves_a_step_by_at_most_the_clipping_norm(run: Run, make_toy: MakeToy) -> None:
    """All of a speaker's clips change at once."""
    data = of_speakers(make_toy(12), [0] * 6 + [1, 1, 2, 2, 2, 3])
    energies = data.energies.copy()
    energies[:6] = 0.0
    recipe = but(SGD, batch_size=12, steps=1)
    privacy = Privacy(units=0, noise_multiplier=0.01, clipping_norm=0.3, unit="speaker")
    report, moved = run(recipe, privacy, data)
    _, other = run(recipe, privacy, replace(data, energies=energies))
    assert report.privacy is not None
    assert (report.privacy.sampling_rate, report.privacy.unit) == (1.0, "speaker")
    assert 0 < float((moved - other).norm()) * 4 <= 2 * 0.3 * (1 + 1e-3)


def test_one_speaker_alone_learns_in_steps_of_a_batch_of_clips(run: Run, make_toy: MakeToy) -> None:
    data = of_speakers(make_toy(24), [0] * 24)
    report, moved = run(but(SGD, batch_size=6, epochs=2), Privacy(units=0, unit="speaker"), data)
    assert report.privacy is not None
    assert (report.steps, report.privacy.sampling_rate) == (8, 1.0)
    assert moved.isfinite().all()


def test_a_unit_that_is_not_known_is_refused_before_anything_is_spent(
    front_end: BatchFrontEnd, make_toy: MakeToy, make_model: MakeModel
) -> None:
    with pytest.raises(TrainingError, match="FA-7021"):
        train(
            make_model(),
            front_end,
            make_toy(6),
            SGD,
            torch.Generator(),
            privacy=Privacy(units=0, unit="recording"),
            before_spending=lambda cost: pytest.fail("something was spent"),
        )


def test_no_training_is_private_unless_somebody_is_told_what_it_costs(
    front_end: BatchFrontEnd, make_toy: MakeToy, make_model: MakeModel
) -> None:
    model = make_model()
    before = flat(model)
    with pytest.raises(ValueError, match="nobody is told"):
        train(model, front_end, make_toy(6), SGD, torch.Generator(), privacy=Privacy(units=0))
    assert torch.equal(flat(model), before)


def test_views_that_are_alike_are_one_view(run: Run) -> None:
    """Without augmentation the mean gradient of a clip's views is its gradient."""
    still = Augmentation(shift_seconds=0, gain_db=0, noise_probability=0, time_masks=0, band_masks=0)
    recipe = but(SGD, steps=1, augmentation=still.model_dump())
    _, one = run(recipe, Privacy(units=0))
    report, four = run(recipe, Privacy(units=0, views=4))
    assert report.privacy is not None
    torch.testing.assert_close(four, one, atol=1e-5, rtol=1e-4)


def test_views_differ_and_move_a_step_by_no_more(run: Run, make_toy: MakeToy) -> None:
    data = make_toy(12)
    energies = data.energies.copy()
    energies[data.clip_index == 0] = 0.0
    recipe = but(SGD, batch_size=12, steps=1)
    privacy = Privacy(units=0, noise_multiplier=0.01, clipping_norm=0.3, views=3)
    assert not torch.equal(
        run(recipe, privacy)[1], run(recipe, Privacy(**{**privacy.model_dump(), "views": 1}))[1]
    )
    difference = run(recipe, privacy, data)[1] - run(recipe, privacy, replace(data, energies=energies))[1]
    assert 0 < float(difference.norm()) * 12 <= 2 * 0.3 * (1 + 1e-3)


@pytest.mark.parametrize("unit", ["clip", "speaker"])
def test_micro_batches_of_units_and_views_change_nothing(
    unit: str, run: Run, make_toy: MakeToy, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = of_speakers(make_toy(12), [0] * 6 + [1, 1, 2, 2, 2, 3])
    privacy = Privacy.model_validate({"units": 0, "unit": unit, "views": 3})
    recipe = but(SGD, batch_size=12, steps=1)
    _, whole = run(recipe, privacy, data)
    for limit in (1, 200_000, 600_000):
        monkeypatch.setattr(micro_batch, "LARGEST_ALLOCATION", limit)
        _, parts = run(recipe, privacy, data)
        torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("engine", ["functorch", "opacus"])
def test_engines_train_the_same(engine: str, run: Run) -> None:
    recipe = but(SGD, steps=2, learning_rate=0.1)
    _, fused = run(recipe, Privacy(units=0))
    _, other = run(recipe, Privacy.model_validate({"units": 0, "engine": engine}))
    # A value that rounds to the next step of the grid differs by that step.
    torch.testing.assert_close(other, fused, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("clipping", ["per-layer", "adaptive"])
def test_every_kind_of_clipping_learns(
    clipping: str, front_end: BatchFrontEnd, make_toy: MakeToy, make_model: MakeModel
) -> None:
    model = make_model()
    recipe = Recipe(epochs=16, learning_rate=5e-3, augmentation=GENTLE)
    privacy = Privacy.model_validate({"units": 0, "noise_multiplier": 0.05, "clipping": clipping})
    train(
        model,
        front_end,
        make_toy(90),
        recipe,
        torch.Generator(),
        privacy=privacy,
        before_spending=uncounted,
        test_random=SecureRandom(KEY),
    )
    assert evaluate(model, front_end, make_toy(60, seed=99)).accuracy > 0.9


def test_adaptive_clipping_costs_what_the_plan_says(run: Run) -> None:
    flat, adaptive = (
        run(but(SGD, steps=3), Privacy.model_validate({"units": 0, "clipping": kind}))[0].privacy
        for kind in ("flat", "adaptive")
    )
    assert flat == adaptive


def test_an_average_of_the_weights_evens_out_the_noise(run: Run) -> None:
    """Steps of noise alone are a random walk; its average ends nearer to where it began."""
    recipe, privacy = but(SGD, steps=40, learning_rate=0.01), {"noise_multiplier": 50.0, "units": 0}
    plain, moved = run(recipe, Privacy.model_validate(privacy))
    average, evened = run(recipe, Privacy.model_validate({"units": 0, **privacy, "average": 0.99}))
    assert plain.privacy == average.privacy
    assert 0 < float(evened.norm()) < 0.95 * float(moved.norm())


def test_an_average_that_forgets_at_once_is_the_last_weights(run: Run) -> None:
    recipe = but(SGD, steps=6)
    _, moved = run(recipe, Privacy(units=0))
    _, last = run(recipe, Privacy(units=0, average=1e-6))
    torch.testing.assert_close(last, moved, atol=1e-4, rtol=1e-4)


def test_no_row_moves_when_a_clip_joins_another(front_end: BatchFrontEnd, make_toy: MakeToy) -> None:
    """With weights that make the rounding of a batch of one, which other kernels do, a gradient's size."""
    task = Task(labels=("a", "b", "c"), architecture="ds-cnn", clip_seconds=0.3, front_end=front_end.config)
    model = build_model(task, torch.Generator().manual_seed(1))
    with torch.no_grad():
        weight = model.get_parameter("classify.weight")
        weight.copy_(1e7 * torch.randn(weight.shape[1:], generator=torch.Generator().manual_seed(2)))
    data, privacy = make_toy(2), Privacy(units=0, noise_multiplier=1.0)
    examples = Augmented(front_end, data, STILL, torch.zeros(1))
    recipe = but(SGD, augmentation=STILL.model_dump(), label_smoothing=0.0)
    source = PrivateGradients(model, examples, recipe, privacy, SecureRandom(KEY))
    grid, clipping = Grid(1.0, 1.0), FlatClipping(privacy)

    def total(*clips: int) -> torch.Tensor:
        windows = np.array(clips)
        rows = source._rows_of_units(windows, torch.arange(len(clips)), len(clips), [])
        clipping.shorten(rows)
        return grid.total(rows)

    assert (total(0, 1) - total(0)).norm() <= SIGMA
    assert (total(1, 0) - total(1)).norm() <= SIGMA
