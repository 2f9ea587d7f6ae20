"""What a device does in Flower's simulation, as Flower's own examples write it. Loaded by Ray's processes.

Made fast where Flower leaves the choice: a process builds the model once, and maps the clips of all devices.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from benchmarks.peers.experiment import Floats, Labels, fresh_model, load_clips, load_experiment

FOLDER = "EXPERIMENT_FOLDER"
"""Environment variable that names the folder of the experiment."""

app = ClientApp()
model = fresh_model()


@lru_cache
def clips() -> tuple[Floats, Labels]:
    return load_clips(Path(os.environ[FOLDER]), "train")


@app.train()
def train(message: Message, context: Context) -> Message:
    """One epoch on the device's clips."""
    torch.set_num_threads(1)
    experiment = load_experiment(Path(os.environ[FOLDER]))
    device = int(message.content["config"]["device"])
    features, labels = (torch.from_numpy(np.array(values[device])) for values in clips())
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=experiment.learning_rate)
    for batch in torch.split(torch.randperm(len(labels)), experiment.batch):
        optimizer.zero_grad()
        F.cross_entropy(model(features[batch]), labels[batch]).backward()
        optimizer.step()
    metrics = MetricRecord({"num-examples": len(labels)})
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=message)
