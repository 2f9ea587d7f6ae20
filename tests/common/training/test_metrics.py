from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from common.audio.batch import BatchFrontEnd
from common.data.features import FeatureSet
from common.errors import TrainingError
from common.models.acoustic import AcousticModel
from common.models.registry import build_model
from common.task import Task
from common.training import micro_batch
from common.training.metrics import evaluate

MakeToy = Callable[..., FeatureSet]
MakeModel = Callable[..., AcousticModel]


@pytest.fixture
def model(make_model: MakeModel) -> AcousticModel:
    """Untrained, but with opinions: its last layer is scaled up."""
    model = make_model()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.startswith("classify"):
                value.mul_(20)
    return model


@torch.no_grad()
def log_probabilities(model: AcousticModel, front_end: BatchFrontEnd, data: FeatureSet) -> torch.Tensor:
    return F.log_softmax(model(front_end.normalise(torch.tensor(data.energies))), dim=1)


def test_counts_of_single_windows(model: AcousticModel, front_end: BatchFrontEnd, make_toy: MakeToy) -> None:
    data = make_toy(40)
    scores = log_probabilities(model, front_end, data)
    truth = torch.from_numpy(data.labels)
    result = evaluate(model, front_end, data)
    assert result.clips == 40 == result.confusion.sum()
    assert result.correct == int((scores.argmax(1) == truth).sum()) == np.trace(result.confusion)
    assert 0 < result.correct < 40
    assert result.accuracy == result.correct / 40
    assert result.loss == pytest.approx(F.nll_loss(scores, truth).item(), rel=1e-5)
    assert (result.confusion.sum(axis=1) == np.bincount(data.labels)).all()


def test_windows_of_one_clip_decide_together(
    model: AcousticModel, front_end: BatchFrontEnd, make_toy: MakeToy
) -> None:
    data = make_toy(20, windows=3)
    order = np.random.default_rng(0).permutation(60)  # windows of a clip need not lie side by side
    means = log_probabilities(model, front_end, data).reshape(20, 3, 3).mean(1)
    truth = torch.from_numpy(data.labels[::3].copy())
    result = evaluate(model, front_end, data.subset(order))
    assert result.clips == 20
    assert result.correct == int((means.argmax(1) == truth).sum())
    assert result.loss == pytest.approx(F.nll_loss(means, truth).item(), rel=1e-5)


def test_micro_batches_change_nothing(
    model: AcousticModel, front_end: BatchFrontEnd, make_toy: MakeToy, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluate(model, front_end, make_toy(25))
    monkeypatch.setattr(micro_batch, "LARGEST_ALLOCATION", 30_000)
    parts = evaluate(model, front_end, make_toy(25))
    assert (parts.confusion == whole.confusion).all()
    assert parts.loss == pytest.approx(whole.loss, rel=1e-5)


def test_no_clips_count_nothing(model: AcousticModel, front_end: BatchFrontEnd, make_toy: MakeToy) -> None:
    result = evaluate(model, front_end, make_toy(0))
    assert (result.clips, result.correct, result.loss, result.accuracy) == (0, 0, 0.0, 0.0)
    assert result.confusion.shape == (3, 3)


def test_scores_that_are_no_numbers_are_an_error(
    model: AcousticModel, front_end: BatchFrontEnd, make_toy: MakeToy
) -> None:
    with torch.no_grad():
        for value in model.parameters():
            value.fill_(1e30)
    with pytest.raises(TrainingError, match="FA-7004"):
        evaluate(model, front_end, make_toy(5))


@pytest.mark.parametrize("architecture", ["tc-stream", "ds-cnn"])
def test_nothing_to_try_a_model_on(
    architecture: str, task: Task, front_end: BatchFrontEnd, make_toy: MakeToy
) -> None:
    """A device that keeps no clips for it answers all the same."""
    task = task.model_copy(update={"architecture": architecture})
    model = build_model(task, torch.Generator().manual_seed(0))
    result = evaluate(model, front_end, make_toy(2).subset(np.arange(0)))
    assert (result.clips, result.correct, result.loss, result.accuracy) == (0, 0, 0.0, 0.0)
    assert result.given.shape == (0,)
    assert not result.confusion.any()
