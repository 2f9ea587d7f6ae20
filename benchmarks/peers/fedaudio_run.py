"""fedaudio on the experiment: the engine's own rounds, workers and checkpoints, on features that are ready.

python -m benchmarks.peers.fedaudio_run FOLDER BEGIN WORKERS
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np

from benchmarks.peers.experiment import (
    BANDS,
    FRAMES,
    TASK,
    Experiment,
    accuracy,
    fresh_model,
    load_clips,
    load_experiment,
    outcome,
)
from common.models.weights import set_weights
from common.protocol.plan import Augmentation, Recipe
from common.results import Speakers
from fl_server.settings import Aggregation
from simulations.checkpoint import RunFolder
from simulations.pool import ProcessPool
from simulations.population import RECORD, WorldRecord
from simulations.scenario import Scenario, SimulatedRounds, TaskChoice
from simulations.simulation import Simulation
from simulations.world import open_world

STILL = Augmentation(shift_seconds=0, gain_db=0, noise_probability=0, time_masks=0, band_masks=0)


def recipe_of(experiment: Experiment) -> Recipe:
    """One epoch of plain SGD."""
    return Recipe(
        optimizer="sgd",
        learning_rate=experiment.learning_rate,
        momentum=0.0,
        weight_decay=0.0,
        batch_size=experiment.batch,
        epochs=1,
        label_smoothing=0.0,
        gradient_clip=0,
        augmentation=STILL,
    )


def scenario_of(experiment: Experiment) -> Scenario:
    """The experiment without any test between rounds, nor after the last."""
    return Scenario(
        name="speed",
        number_of_rounds=experiment.rounds + 1,
        evaluate_every=experiment.rounds + 1,
        task=TaskChoice(width=TASK.width),
        rounds=SimulatedRounds(cohort=experiment.cohort, evaluate=False, holdout=0.0),
        recipe=recipe_of(experiment),
        aggregation=Aggregation(rule="mean", mixing="off", norm_clipping=0),
    )


def write_world(experiment: Experiment, folder: Path, world: Path) -> None:
    """The devices' clips as a world's folder holds them. Energies are not looked at; any numbers will do."""
    features, labels = load_clips(folder, "train")
    world.mkdir()
    target = np.lib.format.open_memmap(world / "features.npy", "w+", np.float32, (labels.size, FRAMES, BANDS))
    target[:] = features.reshape(target.shape)
    target.flush()
    os.link(world / "features.npy", world / "energies.npy")
    clips = np.arange(labels.size, dtype=np.int32)
    arrays = {
        "labels": labels.reshape(-1),
        "windows": np.arange(labels.size + 1),
        "clips": clips,
        "devices": np.arange(0, labels.size + 1, experiment.clips),
        "held": np.zeros(labels.size, np.bool_),
        "speaker": np.full(labels.size, -1, np.int32),
        "unseen": clips[:0],
        "validation": clips[:0],
    }
    for name, array in arrays.items():
        np.save(world / f"{name}.npy", array)
    record = WorldRecord(
        key="",
        task=TASK,
        seed=experiment.seed,
        devices=experiment.devices,
        voices=(),
        speakers=Speakers(train=(), validation=(), unseen=()),
        unseen_names=(),
    )
    (world / RECORD).write_text(record.model_dump_json())


def main() -> None:
    """Run the experiment and print the outcome."""
    folder, begin, workers = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    experiment, run = load_experiment(folder), folder / "fedaudio"
    scenario, ends = scenario_of(experiment), []
    if not (folder / "world").exists():
        write_world(experiment, folder, folder / "world")
    world, record = open_world(folder / "world"), RunFolder(run, scenario, experiment.seed)
    with closing(ProcessPool(world.folder, scenario, experiment.seed, run / "kept", workers)) as pool:
        simulation = Simulation(world, scenario, experiment.seed, pool, workers)
        at = simulation.start(None)
        for _ in range(experiment.rounds):
            at = simulation.after(at)
            record.save(at)
            ends.append(time.time())
    model = fresh_model()
    set_weights(model, at.weights)
    print(outcome(begin, ends, accuracy(model, folder)))


if __name__ == "__main__":
    main()
