"""The coordinator's own labelled clips, if it has any: a candidate is tried on them before its release."""

from __future__ import annotations

import torch

from common.audio.batch import BatchFrontEnd
from common.data.features import FeatureSet
from common.models.registry import build_model
from common.models.weights import set_weights
from common.protocol.release import Metrics
from common.protocol.tensors import Weights
from common.task import Task
from common.training.metrics import Evaluation, evaluate


class Validation:
    """Labelled clips, and a model to try weights with.

    Args:
        clips: with the labels and the front end of `task`; see `load_features`.
    """

    def __init__(self, clips: FeatureSet, task: Task) -> None:
        self.clips, self.task = clips, task
        self.front_end = BatchFrontEnd(task.front_end)
        self._model = build_model(task, torch.Generator())

    def evaluate(self, weights: Weights, clips: FeatureSet | None = None) -> Evaluation:
        """How `weights` do on the coordinator's clips, or on others.

        Raises:
            TrainingError: FA-7004, the scores are not finite.
        """
        set_weights(self._model, weights)
        return evaluate(self._model, self.front_end, self.clips if clips is None else clips)

    def metrics(self, weights: Weights) -> Metrics:
        """The same, as a release states it."""
        result = self.evaluate(weights)
        return Metrics(validation_accuracy=result.accuracy, validation_loss=result.loss)
