"""Flower's simulation on the experiment: FedAvg, and as many Ray actors as there are processors to use.

EXPERIMENT_FOLDER=FOLDER python -m benchmarks.peers.flower_run FOLDER BEGIN WORKERS
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from pathlib import Path

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from benchmarks.peers.experiment import accuracy, fresh_model, load_cohorts, load_experiment, outcome
from benchmarks.peers.flower_app import app as client_app


class Watched(FedAvg):
    """FedAvg that notes when each round is over, on the cohorts of the experiment."""

    ends: list[float]
    cohorts: list[list[int]]

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        drawn = super().configure_train(server_round, arrays, config, grid)
        for message, device in zip(drawn, self.cohorts[server_round - 1], strict=True):
            content = RecordDict({"arrays": arrays, "config": ConfigRecord({"device": device})})
            yield Message(content, dst_node_id=message.metadata.dst_node_id, message_type=MessageType.TRAIN)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        result = super().aggregate_train(server_round, replies)
        self.ends.append(time.time())
        return result


def main() -> None:
    """Run the experiment and print the outcome."""
    folder, begin, workers = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    experiment, server_app = load_experiment(folder), ServerApp()

    @server_app.main()
    def serve(grid: Grid, context: Context) -> None:
        strategy = Watched(
            fraction_train=experiment.cohort / experiment.devices,
            fraction_evaluate=0.0,
            min_train_nodes=experiment.cohort,
            min_available_nodes=experiment.devices,
        )
        strategy.ends, strategy.cohorts = [], load_cohorts(folder)
        model = fresh_model()
        result = strategy.start(
            grid,
            ArrayRecord(model.state_dict()),
            num_rounds=experiment.rounds,
            train_config=ConfigRecord(),
        )
        model.load_state_dict(result.arrays.to_torch_state_dict())
        print(outcome(begin, strategy.ends, accuracy(model, folder)), flush=True)

    run_simulation(
        server_app,
        client_app,
        experiment.devices,
        backend_config={
            "init_args": {"num_cpus": workers, "log_to_driver": False},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )


if __name__ == "__main__":
    main()
