"""pfl-research on the experiment, as its own benchmarks do it. One of several processes.

    PFL_WORKER_ADDRESSES=... PFL_WORKER_RANK=... python -m benchmarks.peers.pfl_run FOLDER BEGIN ours|plain

Made fast where pfl leaves the choice: users' data are views into one tensor, no user is evaluated, nothing is
printed between rounds.
"""

from __future__ import annotations

import sys
import time
from itertools import chain
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByUser
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.hyperparam import NNTrainHyperParams
from pfl.internal.ops import pytorch_ops
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn

from benchmarks.peers.experiment import (
    accuracy,
    fresh_model,
    load_clips,
    load_cohorts,
    load_experiment,
    outcome,
    plain_model,
)


class Learner(nn.Module):
    """The model with the two methods that pfl asks for."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.model(features), labels)

    def metrics(self, features: Tensor, labels: Tensor) -> dict[str, Weighted]:
        return {"loss": Weighted(self.loss(features, labels).item() * len(labels), len(labels))}


class Watch(TrainingProcessCallback):
    """Notes when each round is over."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: PyTorchModel, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        self.ends.append(time.time())
        return False, Metrics()


def main() -> None:
    """Run the experiment; the first process prints the outcome."""
    folder, begin, model = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
    experiment, drawn = load_experiment(folder), chain.from_iterable(load_cohorts(folder))
    features, labels = (torch.from_numpy(np.array(values)) for values in load_clips(folder, "train"))
    users = FederatedDataset(
        lambda user: PyTorchTensorDataset((features[user], labels[user])),
        drawn.__next__,
    )
    learner, watch = Learner(plain_model() if model == "plain" else fresh_model()), Watch()
    central = torch.optim.SGD(learner.parameters(), lr=1.0)
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=experiment.rounds,
            evaluation_frequency=experiment.rounds + 1,
            train_cohort_size=experiment.cohort,
            val_cohort_size=0,
        ),
        SimulatedBackend(training_data=users, val_data=users, postprocessors=[WeightByUser()]),
        PyTorchModel(learner, torch.optim.SGD, central),
        NNTrainHyperParams(
            local_num_epochs=1,
            local_learning_rate=experiment.learning_rate,
            local_batch_size=experiment.batch,
        ),
        callbacks=[watch],
        send_metrics_to_platform=False,
    )
    if pytorch_ops.distributed.global_rank == 0:
        print(outcome(begin, watch.ends, accuracy(learner.model, folder)))


if __name__ == "__main__":
    main()
