"""The coordinator's own labelled clips, if it has any: a candidate is tried on them before its release."""

from __future__ import annotations

from pathlib import Path

import torch

from common.audio.batch import BatchFrontEnd
from common.data.clips import Clips
from common.data.features import load_features
from common.models.registry import build_model
from common.models.weights import set_weights
from common.protocol.release import Metrics
from common.protocol.tensors import Weights
from common.task import Task
from common.training.metrics import Evaluation, evaluate


class Validation:
    """Labelled clips, ready to try weights on.

    Args:
        cache: folder where features are kept.
    """

    def __init__(self, clips: Clips, task: Task, cache: Path) -> None:
        self._features = load_features(clips, task, cache)
        self._front_end = BatchFrontEnd(task.front_end)
        self._model = build_model(task, torch.Generator())

    def evaluate(self, weights: Weights) -> Evaluation:
        """How `weights` do."""
        set_weights(self._model, weights)
        return evaluate(self._model, self._front_end, self._features)

    def metrics(self, weights: Weights) -> Metrics:
        """The same, as a release states it."""
        result = self.evaluate(weights)
        return Metrics(validation_accuracy=result.accuracy, validation_loss=result.loss)
