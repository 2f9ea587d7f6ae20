"""From one model to the next: the part of a round that a coordinator and a simulation have in common."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from common.algorithms.registry import ALGORITHMS, answer_schema
from common.protocol.answer import Report
from common.protocol.release import Metrics
from common.protocol.tensors import Row, Schema, Weights, schema_of
from fl_server.fleet import Fleet, Kind
from fl_server.memory import Memory, made_by
from fl_server.rounds import Collected, Exchange, evaluate_cohort, train_cohort
from fl_server.rules.norm_clipping import usual_norm
from fl_server.rules.registry import make_rule
from fl_server.server_optimizer import ServerOptimizer
from fl_server.settings import ServerSettings


class Draft(Protocol):
    """Makes the plan of a round, ready to be sent."""

    def __call__(self, kind: Kind, order: Weights, schema: Schema, cohort: Mapping[int, str]) -> Exchange:
        """An exchange with `cohort` about the tensors of `order`; answers to a training are of `schema`."""
        ...


@dataclass(frozen=True)
class Candidate:
    """What a round made, before anybody decides whether it is released."""

    weights: Weights = field(repr=False)
    memory: Memory = field(repr=False)


def train_candidate(
    fleet: Fleet,
    settings: ServerSettings,
    base: Weights,
    memory: Memory,
    cohort: Mapping[int, str],
    *,
    enrolled: int,
    draft: Draft,
    collected: Collected,
    book: Callable[[Report], None] = lambda report: None,
    reference: Callable[[], Row] | None = None,
) -> Candidate:
    """Let `cohort` train on `base` and take one step from there.

    Args:
        enrolled: devices in the whole fleet.
        collected: filled with how everybody did, also if there is no candidate in the end.
        book: as `train_cohort`.
        reference: as `make_rule`.

    Raises:
        CoordinatorError, StorageError, FleetLostError: as `train_cohort`.
        ConfigError: as `make_rule`.
    """
    algorithm = ALGORITHMS[settings.recipe.algorithm]
    schema = answer_schema(settings.recipe, schema_of(base))
    rule = make_rule(settings, schema, len(cohort), memory.norms, reference)
    exchange = draft("train", algorithm.order(base, memory.algorithm), schema, cohort)
    aggregate = train_cohort(fleet, settings, exchange, collected, book, rule)
    # Of those that were folded in: what a used-up rule says of itself is no longer about them.
    share = min(1.0, len(collected.norms) / max(1, enrolled))
    delta, remembered = algorithm.conclude(aggregate, base, memory.algorithm, share)
    optimizer = ServerOptimizer(base, settings.optimizer)
    optimizer.recall(memory.optimizer)
    weights = optimizer.step(delta)
    step = math.sqrt(sum(float(np.square(weights[name] - base[name]).sum()) for name in base))
    memory = replace(
        memory,
        optimizer=optimizer.memory(),
        algorithm=remembered,
        of=made_by(settings.recipe, settings.optimizer, schema_of(base)),
    )
    return Candidate(weights, memory.after(usual_norm(collected.norms), step))


def try_on_devices(
    fleet: Fleet,
    settings: ServerSettings,
    candidate: Candidate,
    cohort: Mapping[int, str],
    *,
    draft: Draft,
    collected: Collected,
) -> Metrics:
    """How the candidate does on clips that the devices of `cohort` keep for that."""
    algorithm = ALGORITHMS[settings.recipe.algorithm]
    order = algorithm.order(candidate.weights, candidate.memory.algorithm)
    return evaluate_cohort(fleet, draft("evaluate", order, schema_of(candidate.weights), cohort), collected)
