"""How well a model does on clips."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from common.audio.batch import BatchFrontEnd
from common.data.features import FeatureSet, Windows
from common.models.acoustic import AcousticModel
from common.training.examples import plain_features
from common.training.gradients import diverged
from common.training.micro_batch import micro_batch_size


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Counts over clips.

    Args:
        clips: how many.
        correct: how many were named rightly.
        loss: mean cross-entropy, 0 without clips.
        confusion: clips by true label (row) and label given (column), (labels, labels) int64.
        given: label given to each clip, in the order of their `clip_index`, (clips,) int64.
    """

    clips: int
    correct: int
    loss: float
    confusion: npt.NDArray[np.int64]
    given: npt.NDArray[np.int64]

    @property
    def accuracy(self) -> float:
        """Share of clips named rightly, 0 without clips."""
        return self.correct / max(1, self.clips)


def evaluate(model: AcousticModel, front_end: BatchFrontEnd, data: FeatureSet) -> Evaluation:
    """Try `model` on every clip of `data`.

    A clip of several windows is decided by the mean of its windows' log-probabilities.

    Raises:
        TrainingError: FA-7004, the weights are so large that the scores are not finite.
    """
    scores = _log_probabilities(model, front_end, data)
    _, first, clip = np.unique(data.clip_index, return_index=True, return_inverse=True)
    truth = data.labels[first]
    sums = np.zeros((len(first), scores.shape[1]))
    np.add.at(sums, clip, scores)
    means = sums / np.bincount(clip, minlength=len(first))[:, None]
    given = means.argmax(axis=1)
    confusion = np.zeros((scores.shape[1],) * 2, np.int64)
    np.add.at(confusion, (truth, given), 1)
    loss = -means[np.arange(len(first)), truth].sum() / max(1, len(first))
    if not np.isfinite(loss):
        raise diverged("The model's scores are infinite or not numbers.")
    return Evaluation(len(first), int(np.trace(confusion)), float(loss), confusion, given)


@torch.no_grad()
def _log_probabilities(
    model: AcousticModel, front_end: BatchFrontEnd, data: FeatureSet
) -> npt.NDArray[np.float32]:
    """Log-probabilities (N, labels) of all windows."""
    frames, features = data.energies.shape[1], front_end.config.features
    size = micro_batch_size(model, frames, features, per_sample_gradients=False)
    model.eval()
    parts = [
        F.log_softmax(model(plain_features(front_end, data, windows)), dim=1)
        for windows in _in_order(len(data.labels), size)
    ]
    return torch.cat(parts).numpy()


def _in_order(count: int, size: int) -> list[Windows]:
    """Indices 0..count-1 in parts of `size`; one empty part if there are none."""
    return [np.arange(start, min(start + size, count)) for start in range(0, max(1, count), size)]
