"""How much of a device's work is not the model's own step: our loop against a bare one."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.peers.experiment import BANDS, FRAMES, TASK, Experiment, fresh_model, load_clips
from benchmarks.peers.fedaudio_run import recipe_of
from common.data.features import FeatureSet
from common.models.weights import get_weights
from common.protocol.answer import encode_answer
from common.protocol.plan import Augmentation, Plan
from common.training.local import LocalTrainer

DEVICES, REPEATS = 50, 12


@dataclass(frozen=True)
class Shares:
    """0 to 1; negative where our loop is faster than the bare one."""

    still: float
    augmented: float


def share_of_round() -> Shares:
    """Without augmentation, on features that are ready; and with the default augmentation."""
    torch.set_num_threads(1)
    experiment = Experiment(devices=DEVICES)
    with tempfile.TemporaryDirectory() as folder:
        experiment.save(Path(folder))
        features, labels = (np.array(values) for values in load_clips(Path(folder), "train"))
    plan = Plan(
        coordinator="0" * 64,
        run="0" * 16,
        round=1,
        expires=2**40,
        cohort=DEVICES,
        recipient="0" * 16,
        task=TASK,
        recipe=recipe_of(experiment),
        base="0" * 64,
        holdout=0.0,
    )
    recipe = plan.recipe.model_copy(update={"augmentation": Augmentation()})
    augmented = plan.model_copy(update={"recipe": recipe})
    energies = np.random.default_rng(0).exponential(1.0, (experiment.clips, FRAMES, BANDS)).astype(np.float32)
    index = np.arange(experiment.clips)
    data = [
        FeatureSet(energies, label, index, features=feature)
        for feature, label in zip(features, labels, strict=True)
    ]
    trainer, weights = LocalTrainer(TASK), get_weights(fresh_model())

    def ours(plan: Plan) -> Callable[[int], object]:
        def work(device: int) -> bytes:
            done = trainer.answer(plan, weights, data[device], (), f"{device:032x}")
            return encode_answer(done.report, done.answer)

        return work

    still, with_augmentation, bare = _time(ours(plan), ours(augmented), _bare(experiment, features, labels))
    return Shares(1 - bare / still, 1 - bare / with_augmentation)


def _bare(experiment: Experiment, features: np.ndarray, labels: np.ndarray) -> Callable[[int], object]:
    """What everybody's first training loop does, and nothing else."""
    model = fresh_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=experiment.learning_rate)
    batches = [
        list(
            zip(
                torch.split(torch.from_numpy(feature), experiment.batch),
                torch.split(torch.from_numpy(label), experiment.batch),
                strict=True,
            )
        )
        for feature, label in zip(features, labels, strict=True)
    ]

    def work(device: int) -> None:
        for batch, truth in batches[device]:
            optimizer.zero_grad()
            F.cross_entropy(model(batch), truth).backward()
            optimizer.step()

    return work


def _time(*works: Callable[[int], object]) -> list[float]:
    """Processor seconds of each on one device, in turns: the median over devices and repeats."""
    taken: list[list[float]] = [[] for _ in works]
    for repeat in range(REPEATS + 1):
        for device in range(DEVICES):
            for work, seconds in zip(works, taken, strict=True):
                begin = time.process_time()
                work(device)
                if repeat:
                    seconds.append(time.process_time() - begin)
    return [statistics.median(seconds) for seconds in taken]
