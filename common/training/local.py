"""Training on one machine: a device's answer to a plan, and training without any coordinator."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch

from common.algorithms.registry import ALGORITHMS
from common.audio.batch import BatchFrontEnd
from common.data.clips import Clips
from common.data.features import FeatureSet, load_features
from common.models.registry import build_model
from common.models.weights import get_weights, set_weights
from common.privacy.secure_random import SecureRandom
from common.protocol.answer import PrivacySpent, Report
from common.protocol.plan import PRIVATE_RECIPE, Plan, Privacy, Recipe
from common.protocol.tensors import Schema, Weights, schema_of
from common.task import Task
from common.training.metrics import evaluate
from common.training.trainer import TrainReport, train, uncounted

LOSS_LIMIT = 1e6
"""The largest loss a report may state."""


@dataclass(frozen=True)
class Done:
    """What a device did for a plan.

    Args:
        answer: tensors to send, of a training.
        kept: what the device must keep for its next training, by the plan's algorithm; often nothing.
    """

    report: Report
    answer: Weights | None = field(default=None, repr=False)
    kept: Weights = field(default_factory=dict, repr=False)


class LocalTrainer:
    """Answers plans for one task. The model is built once and serves every plan, whosever clips it is about.

    Raises:
        TrainingError: FA-7001, there is no such architecture.
    """

    def __init__(self, task: Task) -> None:
        self._model = build_model(task, torch.Generator())
        self._front_end = BatchFrontEnd(task.front_end)
        self.schema: Schema = schema_of(get_weights(self._model))

    def answer(
        self,
        plan: Plan,
        order: Weights,
        data: FeatureSet,
        held_out: Collection[int],
        device: str,
        *,
        kept: Weights | None = None,
        noise: FeatureSet | None = None,
        before_spending: Callable[[PrivacySpent], None] | None = None,
        noise_random: SecureRandom | None = None,
    ) -> Done:
        """Do what `plan` asks with the tensors of `order` on a device's clips.

        Without privacy the same plan, tensors, clips and device name give the same answer to the last bit,
        wherever it is computed. A private training draws its noise from the operating system and reports no
        loss, for the exact loss is not private.

        Args:
            data: all clips of the device.
            held_out: indices of clips (`data.clip_index`) to evaluate on and never to train on.
            kept: by the device in its last training, of the algorithm's `kept_schema`; empty if nothing was.
            noise: recorded background noise for augmentation; synthetic noise if there is none, and in a
                private training, for one recording would be in the gradients of many clips.
            before_spending: as `common.training.trainer.train`: a private training does not begin without.
            noise_random: replaces the operating system's randomness in a private training that protects
                nobody: in tests and in simulations that are to be repeated.

        Raises:
            TrainingError: FA-7002 weights, FA-7003 no clips, FA-7004 diverged, FA-7005 too little privacy
                noise.
        """
        begin = time.monotonic()
        algorithm, kept = ALGORITHMS[plan.recipe.algorithm], kept or {}
        model = self._model
        set_weights(model, algorithm.start(order, kept))
        held = np.isin(data.clip_index, list(held_out)) if held_out else np.zeros(len(data), bool)
        report = partial(
            Report,
            run=plan.run,
            round=plan.round,
            kind=plan.kind,
            base=plan.base,
            device=device,
            skipped=0 if plan.privacy else len(data.skipped),
        )
        if plan.kind == "evaluate":
            result = evaluate(model, self._front_end, data.subset(np.flatnonzero(held)))
            loss, seconds = min(result.loss, LOSS_LIMIT), time.monotonic() - begin
            return Done(report(clips=result.clips, correct=result.correct, loss=loss, seconds=seconds))
        part = algorithm.part(model, plan.recipe, order, kept)
        done = train(
            model,
            self._front_end,
            data.subset(np.flatnonzero(~held)) if held.any() else data,
            plan.recipe,
            torch.Generator().manual_seed(seed_of(plan.seed, plan.round, device)),
            nothing=plan.task.nothing,
            noise=None if plan.privacy else noise,
            noise_seed=seed_of(plan.seed, plan.round, "noise"),
            privacy=plan.privacy,
            before_spending=before_spending,
            part=part,
            test_random=noise_random,
        )
        answer, keep = part.answer(done.steps)
        if plan.privacy is not None:
            # Beside its cost, an answer that noise protects tells nothing that is exact.
            clips = plan.privacy.units or done.clips
            return Done(report(clips=clips, privacy=done.privacy), answer, keep)
        loss, seconds = min(done.loss, LOSS_LIMIT), time.monotonic() - begin
        return Done(report(clips=done.clips, loss=loss, seconds=seconds), answer, keep)


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
    """Train a model on all of `clips`, from `weights` or from scratch; its report says what that cost.

    Args:
        task: what to learn; by default the labels of `clips` with the default model.
        recipe: how; by default as devices do.
        cache: folder that keeps the clips' energies for the next time.
        seed: of initial weights, batch order and augmentation; never of privacy noise.

    Raises:
        TrainingError: as `common.training.trainer.train`, FA-7001 architecture, FA-7002 weights.
    """
    task = task or Task(labels=clips.labels)
    recipe = recipe or (Recipe() if privacy is None else PRIVATE_RECIPE)
    generator = torch.Generator().manual_seed(seed_of(seed))
    model = build_model(task, generator)
    if weights is not None:
        set_weights(model, weights)
    with tempfile.TemporaryDirectory() as folder:
        data = load_features(clips, task, cache or Path(folder))
        report = train(
            model,
            BatchFrontEnd(task.front_end),
            data,
            recipe,
            generator,
            nothing=task.nothing,
            noise_seed=seed_of(seed, "noise"),
            privacy=privacy,
            before_spending=uncounted,
        )
    return get_weights(model), report


def seed_of(*parts: int | str) -> int:
    """32 bits, all a torch.Generator uses of its seed, that look independent for any two lists of parts."""
    return int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:4])
