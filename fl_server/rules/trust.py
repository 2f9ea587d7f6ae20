"""FLTrust (Cao et al. 2021, "Byzantine-robust Federated Learning via Trust Bootstrapping", arXiv:2012.13995).

The coordinator trains too, on clips of its own that nobody can poison, and trusts others as far as they go
the same way.
"""

from __future__ import annotations

import numpy as np

from common.algorithms.registry import ALGORITHMS
from common.data.features import FeatureSet
from common.errors import CoordinatorError, TrainingError
from common.protocol.tensors import Row, Weights, norm
from common.training.local import LocalTrainer
from fl_server.memory import Memory
from fl_server.rounds import make_plan
from fl_server.rules.geometry import weighted_sum
from fl_server.rules.rule import Rows
from fl_server.settings import ServerSettings


def trust(rows: Rows, reference: Row) -> Row:
    """The mean of all updates, each brought to the length of `reference`, by max(0, cosine to it).

    Raises:
        CoordinatorError: FA-5115, no update goes the way of `reference`.
    """
    length, norms = norm(reference), np.array([norm(row) for row in rows])
    products = np.array([float(np.dot(row, reference)) for row in rows])
    usable = norms * length > 0
    cosines = np.divide(products, norms * length, out=np.zeros(len(rows)), where=usable)
    scores = np.maximum(cosines, 0.0)
    if not scores.any():
        raise CoordinatorError(
            "FA-5115",
            "No update goes the way of what the coordinator learned from its own clips.",
            "See that the validation clips have the labels of the task and are enough to train on.",
        )
    scales = np.divide(length, norms, out=np.zeros(len(rows)), where=usable)
    return weighted_sum(rows, scores * scales / scores.sum())


def train_reference(
    data: FeatureSet, settings: ServerSettings, base: Weights, memory: Memory, number: int
) -> Row:
    """What a device with the coordinator's own clips would send in round `number`.

    It trains without privacy, for nobody sees the result, and by the settings' algorithm, so that its answer
    has the tensors of a device's. For what a device keeps from round to round, it has what the order says.

    Raises:
        CoordinatorError: FA-5115, there is nothing to trust by: there are no usable clips, or it diverged.
    """
    algorithm = ALGORITHMS[settings.recipe.algorithm]
    order = algorithm.order(base, memory.algorithm)
    plan = make_plan(
        settings.model_copy(update={"privacy": None}),
        "train",
        number,
        b"",
        coordinator="0" * 64,
        run="0" * 16,
        cohort=1,
        recipient="0" * 16,
    )
    trainer = LocalTrainer(settings.task)
    kept = {name: order[name] for name in algorithm.kept_schema(trainer.schema)}
    try:
        answer = trainer.answer(plan, order, data, (), _NOBODY, kept=kept).answer or {}
    except TrainingError as error:
        if error.code not in {"FA-7003", "FA-7004"}:
            raise
        raise CoordinatorError(
            "FA-5115", f"The coordinator learned nothing from its own clips. {error.happened}", error.remedy
        ) from error
    return np.concatenate([answer[name].reshape(-1) for name in sorted(answer)])


_NOBODY = "0" * 32
"""Stands for the id of a device."""
