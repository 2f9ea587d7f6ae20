"""What a version makes of the golden clip by the formulas of training; devices must hear the same."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from common.audio.batch import BatchFrontEnd
from common.audio.golden import golden_clip
from common.models.acoustic import AcousticModel
from common.models.registry import build_model
from common.models.weights import set_weights
from common.protocol.tensors import Weights
from common.task import Task


@torch.inference_mode()
def golden_scores(task: Task, weights: Weights) -> tuple[float, ...]:
    """Probability of each label, to six places; NaN where the model overflows.

    Raises:
        TrainingError: FA-7001, FA-7002, the weights are not those of the task's model.
        AudioError: FA-1008, its front end is impossible.
    """
    model, features = _prepared(task)
    set_weights(model, weights)
    scores: list[float] = model(features).softmax(dim=1)[0].tolist()
    return tuple(round(score, 6) for score in scores)


@lru_cache(maxsize=1)
def _prepared(task: Task) -> tuple[AcousticModel, Tensor]:
    """A model, and the clip's features: all that does not change from version to version."""
    clip = torch.from_numpy(golden_clip(task.clip_samples))[None]
    return build_model(task, torch.Generator()).eval(), BatchFrontEnd(task.front_end)(clip)
