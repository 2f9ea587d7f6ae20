"""One federated experiment that fedaudio, pfl-research and Flower all run: data, model, how a device trains.

Needs numpy, torch and pydantic only, so that it can be read in the peers' own environments.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.models.acoustic import AcousticModel
from common.models.registry import build_model
from common.models.tc_stream import KERNEL, Block, TcStream
from common.task import Task

FRAMES, BANDS = 98, 40
TASK = Task(labels=tuple(f"word {number}" for number in range(12)), width=56)
"""tc-stream with 21,652 parameters on windows of 40 x 98."""
TESTED = 2400
"""Clips on which the final model is tried."""

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Experiment:
    """What is simulated. Every device does one epoch of plain SGD; the coordinator takes the plain mean."""

    devices: int = 500
    clips: int = 20
    cohort: int = 50
    rounds: int = 20
    batch: int = 10
    learning_rate: float = 0.1
    seed: int = 0

    def save(self, folder: Path, cohorts: Sequence[Sequence[int]] = ()) -> None:
        """Write the experiment and its data into `folder`, for the processes that take part.

        Args:
            cohorts: the devices that train in each round.
        """
        (folder / "experiment.json").write_text(json.dumps(asdict(self)))
        np.save(folder / "cohorts.npy", np.array(cohorts, np.int64))
        random = np.random.default_rng(self.seed)
        words = _words(random)
        for name, devices, clips in (("train", self.devices, self.clips), ("test", TESTED // 20, 20)):
            features, labels = _recordings(words, devices, clips, random)
            np.save(folder / f"{name}.features.npy", features)
            np.save(folder / f"{name}.labels.npy", labels)


def load_experiment(folder: Path) -> Experiment:
    """What `Experiment.save` wrote, without the data."""
    return Experiment(**json.loads((folder / "experiment.json").read_text()))


def load_clips(folder: Path, name: str) -> tuple[Floats, Labels]:
    """Features (devices, clips, frames, bands), memory-mapped, and labels of "train" or "test"."""
    features = np.load(folder / f"{name}.features.npy", mmap_mode="r")
    return features, np.load(folder / f"{name}.labels.npy")


def load_cohorts(folder: Path) -> list[list[int]]:
    """The devices that train in each round, as they were given to `Experiment.save`."""
    cohorts: list[list[int]] = np.load(folder / "cohorts.npy").tolist()
    return cohorts


def fresh_model() -> AcousticModel:
    """The model that all start from."""
    return build_model(TASK, torch.Generator().manual_seed(0))


def plain_model() -> nn.Module:
    """The same network from the same weights, written with torch's own layers as one would at first."""
    ours = fresh_model()
    assert isinstance(ours, TcStream)
    return _Plain(ours)


class _Plain(nn.Module):
    def __init__(self, ours: TcStream) -> None:
        super().__init__()
        self.dilations = [block.dilation for block in ours.blocks]
        self.depthwise = nn.ModuleList(_conv(block) for block in ours.blocks)
        self.pointwise = nn.ModuleList(block.pointwise for block in ours.blocks)
        self.norms = nn.ModuleList(block.norm for block in ours.blocks)
        self.mix, self.norm, self.classify = ours.mix, ours.norm, ours.classify

    def forward(self, frames: Tensor) -> Tensor:
        layers = zip(self.dilations, self.depthwise, self.pointwise, self.norms, strict=True)
        for dilation, depthwise, pointwise, norm in layers:
            padded = F.pad(frames.transpose(1, 2), ((KERNEL - 1) * dilation, 0))
            mixed = norm(pointwise(depthwise(padded).transpose(1, 2)))
            frames = F.relu(mixed + frames if mixed.shape == frames.shape else mixed)
        scores: Tensor = self.classify(F.relu(self.norm(self.mix(frames)) + frames))
        return scores.logsumexp(dim=1) - math.log(scores.shape[1])


def _conv(block: Block) -> nn.Conv1d:
    channels = len(block.depthwise.weight)
    conv = nn.Conv1d(channels, channels, KERNEL, dilation=block.dilation, groups=channels, bias=False)
    conv.weight = nn.Parameter(block.depthwise.weight.detach().squeeze(3))
    return conv


@torch.no_grad()
def accuracy(model: nn.Module, folder: Path) -> float:
    """Share of the test clips named rightly."""
    features, labels = load_clips(folder, "test")
    model.eval()
    guesses = [model(torch.from_numpy(np.array(part))).argmax(dim=1) for part in features]
    return float((torch.stack(guesses).numpy() == labels).mean())


def outcome(begin: float, ends: list[float], score: float) -> str:
    """What a process reports as its last line.

    Args:
        begin, ends: when it was started, and when each round was over (`time.time()`).
    """
    first, rest = ends[0] - begin, np.diff(ends).tolist()
    return json.dumps({"first_s": first, "rounds_s": rest, "accuracy": score, "now": time.time()})


def _words(random: np.random.Generator) -> Floats:
    """One smooth pattern (frames, bands) for each label."""
    coarse = torch.from_numpy(random.standard_normal((len(TASK.labels), 1, 8, 8)).astype(np.float32))
    smooth: Tensor = F.interpolate(coarse, (FRAMES, BANDS), mode="bicubic")
    return smooth.squeeze(1).numpy()


def _recordings(
    words: Floats, devices: int, clips: int, random: np.random.Generator
) -> tuple[Floats, Labels]:
    """Each clip is its word, moved in time, in noise, through its device's own frequency response."""
    labels = random.integers(len(words), size=(devices, clips))
    features = np.empty((devices, clips, FRAMES, BANDS), np.float32)
    for device in range(devices):
        response = random.normal(0, 0.5, BANDS)
        noise = random.normal(0, 1.0, (clips, FRAMES, BANDS))
        moved = [np.roll(words[label], random.integers(-20, 21), axis=0) for label in labels[device]]
        features[device] = np.stack(moved) + response + noise
    return features, labels
