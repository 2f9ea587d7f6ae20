"""Training on one machine: a device's answer to a plan, and training without any coordinator."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

import numpy as np
import torch

from common.audio.batch import BatchFrontEnd
from common.data.clips import Clips
from common.data.features import FeatureSet, load_features
from common.models.acoustic import AcousticModel
from common.models.registry import build_model
from common.models.weights import get_weights, set_weights
from common.protocol.answer import PrivacySpent, Report
from common.protocol.plan import Plan, Privacy, Recipe
from common.protocol.tensors import Weights
from common.task import Task
from common.training.metrics import evaluate
from common.training.trainer import TrainReport, train

LOSS_LIMIT = 1e6
"""The largest loss a report may state."""


def answer_plan(
    plan: Plan,
    weights: Weights,
    data: FeatureSet,
    held_out: Collection[int],
    device: str,
    *,
    noise: FeatureSet | None = None,
    before_spending: Callable[[PrivacySpent], None] = lambda cost: None,
) -> tuple[Report, Weights | None]:
    """Do what `plan` asks with `weights` on a device's clips: the report, and of a training the delta.

    Without privacy the same plan, weights, clips and device name give the same delta to the last bit,
    wherever it is computed. A private training draws its noise from the operating system and reports no loss,
    for the exact loss is not private.

    Args:
        data: all clips of the device.
        held_out: indices of clips (`data.clip_index`) to evaluate on and never to train on.
        noise: recorded background noise for augmentation; synthetic noise if there is none, and in a private
            training, for one recording would be in the gradients of many clips.
        before_spending: told what a private training will cost, before its first step; it may raise.

    Raises:
        TrainingError: FA-7001 architecture, FA-7002 weights, FA-7003 no clips, FA-7004 diverged,
            FA-7005 too little privacy noise.
    """
    begin = time.monotonic()
    model = _model_with(plan.task, weights)
    front_end = BatchFrontEnd(plan.task.front_end)
    held = np.isin(data.clip_index, list(held_out))
    report = partial(
        Report,
        run=plan.run,
        round=plan.round,
        kind=plan.kind,
        base=plan.base,
        device=device,
        skipped=len(data.skipped),
    )
    if plan.kind == "evaluate":
        result = evaluate(model, front_end, data.subset(np.flatnonzero(held)))
        loss, seconds = min(result.loss, LOSS_LIMIT), time.monotonic() - begin
        return report(clips=result.clips, correct=result.correct, loss=loss, seconds=seconds), None
    generator = torch.Generator().manual_seed(_seed(plan.seed, plan.round, device))
    learned_from = data.subset(np.flatnonzero(~held))
    done = train(
        model,
        front_end,
        learned_from,
        plan.recipe,
        generator,
        noise=None if plan.privacy else noise,
        privacy=plan.privacy,
        before_spending=before_spending,
    )
    delta = {name: value - weights[name] for name, value in get_weights(model).items()}
    loss = min(done.loss, LOSS_LIMIT) if plan.privacy is None else 0.0
    seconds = time.monotonic() - begin
    return report(clips=done.clips, loss=loss, seconds=seconds, privacy=done.privacy), delta


def train_local(
    clips: Clips,
    task: Task | None = None,
    recipe: Recipe | None = None,
    *,
    weights: Weights | None = None,
    privacy: Privacy | None = None,
    cache: Path | None = None,
    seed: int = 0,
) -> tuple[Weights, TrainReport]:
    """Train a model on all of `clips`, from `weights` or from scratch.

    Args:
        task: what to learn; by default the labels of `clips` with the default model.
        recipe: how; by default as devices do.
        cache: folder that keeps the clips' energies for the next time.
        seed: of initial weights, batch order and augmentation; never of privacy noise.

    Raises:
        TrainingError: as `common.training.trainer.train`, FA-7001 architecture, FA-7002 weights.
    """
    task, recipe = task or Task(labels=clips.labels), recipe or Recipe()
    generator = torch.Generator().manual_seed(_seed(seed))
    model = build_model(task, generator)
    if weights is not None:
        set_weights(model, weights)
    with tempfile.TemporaryDirectory() as folder:
        data = load_features(clips, task, cache or Path(folder))
        report = train(model, BatchFrontEnd(task.front_end), data, recipe, generator, privacy=privacy)
    return get_weights(model), report


def _model_with(task: Task, weights: Weights) -> AcousticModel:
    model = build_model(task, torch.Generator())
    set_weights(model, weights)
    return model


def _seed(*parts: int | str) -> int:
    """32 bits, all a torch.Generator uses of its seed, that look independent for any two lists of parts."""
    return int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:4])
