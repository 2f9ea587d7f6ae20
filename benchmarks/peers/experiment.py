"""One federated experiment that fedaudio, pfl-research and Flower all run: data, model, how a device trains.

Needs numpy, torch and pydantic only, so that it can be read in the peers' own environments.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from common.models.acoustic import AcousticModel
from common.models.registry import build_model
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

    def save(self, folder: Path) -> None:
        """Write the experiment and its data into `folder`, for the processes that take part."""
        (folder / "experiment.json").write_text(json.dumps(asdict(self)))
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


def fresh_model() -> AcousticModel:
    """The model that all start from."""
    return build_model(TASK, torch.Generator().manual_seed(0))


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
    smooth: Tensor = nn.functional.interpolate(coarse, (FRAMES, BANDS), mode="bicubic")
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
