"""What a version makes of the golden clip by the formulas of training; devices must hear the same."""

from __future__ import annotations

import torch

from common.audio.batch import BatchFrontEnd
from common.audio.golden import golden_clip
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
    model = build_model(task, torch.Generator()).eval()
    set_weights(model, weights)
    clip = torch.from_numpy(golden_clip(task.clip_samples))[None]
    scores: list[float] = model(BatchFrontEnd(task.front_end)(clip)).softmax(dim=1)[0].tolist()
    return tuple(round(score, 6) for score in scores)
