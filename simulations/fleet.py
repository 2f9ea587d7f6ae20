"""A fleet of virtual devices: who answers, when, and what, on a clock of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from common.algorithms.registry import answer_schema
from common.protocol.answer import Answer, decode_answer, encode_answer
from common.protocol.plan import Plan, parse_plan
from common.protocol.tensors import Row, Schema, Weights, encoded_size, split_row
from fl_server.fleet import Kind, Reply
from simulations.attacks.attack import Attack, Scene
from simulations.behaviour import Behaviour
from simulations.draws import draws
from simulations.pool import Job, Pool
from simulations.population import Population

REPORT_BYTES = 400
"""About as many as an answer has beside its tensors."""

SCORING = 1 / 3
"""What it takes to name a window, in trainings on one: they have three products a layer, this has one."""


@dataclass(frozen=True)
class Attackers:
    """Who attacks, and how.

    Args:
        devices: their numbers.
        from_round: the first round in which they do.
        seed: of the simulation.
    """

    attack: Attack
    devices: frozenset[int]
    from_round: int
    seed: int

    def in_round(self, number: int, devices: Iterable[int]) -> list[int]:
        """Those of `devices` that attack in round `number`, ascending."""
        return sorted(self.devices.intersection(devices)) if number >= self.from_round else []


class SimulatedFleet:
    """Implements `fl_server.fleet.Fleet`. The nodes are the devices' numbers.

    Who is late or never answers is known beforehand, so nobody does their work, see `simulations.behaviour`.

    Args:
        schema: of the model.
        heard: told after every answer how many have come, and of how many.
    """

    def __init__(
        self,
        pool: Pool,
        population: Population,
        behaviour: Behaviour,
        attackers: Attackers,
        schema: Schema,
        heard: Callable[[int, int], None],
    ) -> None:
        self._pool, self._population, self._behaviour = pool, population, behaviour
        self._attackers, self._schema, self._heard = attackers, schema, heard
        self.clock = 0.0
        """Seconds since the simulation began, as its devices experience it."""
        self.begin(0, {})

    def begin(self, number: int, last_step: Weights) -> None:
        """Be asked for round `number` from now on.

        Args:
            last_step: by how much the last round changed the model.
        """
        self._round, self._last_step = number, last_step
        self.late = self.dropped = 0

    def online(self) -> Mapping[int, str]:
        return Devices(self._population, self._behaviour.online(self._round, self.clock))

    def ask(
        self, order: bytes, kind: Kind, seconds: float, weights: bytes, nodes: Iterable[int]
    ) -> Iterator[Reply]:
        plan, asked = parse_plan(order), list(nodes)
        windows = {device: self._windows(plan, device) for device in asked}
        in_time, took = self._in_time(plan, windows, len(order) + len(weights))
        attackers = self._attackers.in_round(plan.round, in_time) if kind == "train" else []
        jobs = [Job(device, windows[device], device in attackers) for device in in_time]
        held_back = _HeldBack(answer_schema(plan.recipe, self._schema), attackers)
        for count, (device, data) in enumerate(self._pool.work(order, weights, jobs), 1):
            if attackers:
                held_back.look_at(device, data)
            if device not in held_back.own:
                yield Reply(device, data)
            self._heard(count, len(asked))
        for device, forged in self._forge(held_back):
            yield Reply(device, forged)
        self.clock += took

    def _windows(self, plan: Plan, device: int) -> int:
        """Windows that `plan` lets a device go through."""
        if plan.kind == "evaluate":
            return len(self._population.held_out(device))
        if plan.recipe.steps is not None:
            return plan.recipe.steps * plan.recipe.batch_size
        return plan.recipe.passes * self._population.training_windows(device)

    def _in_time(self, plan: Plan, windows: Mapping[int, int], down: int) -> tuple[list[int], float]:
        """Devices that answer in time, and how long it takes until no more can be expected."""
        answered, took = [], 0.0
        trains = plan.kind == "train"
        each, up = (1.0 if trains else SCORING), REPORT_BYTES
        up += encoded_size(answer_schema(plan.recipe, self._schema)) if trains else 0
        for device, count in windows.items():
            outcome = self._behaviour.outcome(plan.round, device, each * count, down, up, self.clock)
            late = outcome.seconds > plan.seconds
            if not outcome.drops and not late:
                answered.append(device)
                took = max(took, outcome.seconds)
            elif trains:
                self.dropped += outcome.drops
                self.late += not outcome.drops
        return answered, took if len(answered) == len(windows) else plan.seconds

    def _forge(self, held_back: _HeldBack) -> Iterator[tuple[int, bytes]]:
        """What the attackers send, when all others have answered."""
        if not held_back.own:
            return
        schema, own = held_back.schema, dict(sorted(held_back.own.items()))
        scene = Scene(
            self._round,
            _stack([row for _, row in sorted(held_back.honest.items())], schema),
            _stack([answer.row for answer in own.values()], schema),
            _row(self._last_step, schema),
        )
        rows = self._attackers.attack.forge(scene, draws(self._attackers.seed, "forge", self._round))
        for (device, answer), row in zip(own.items(), rows, strict=True):
            yield device, encode_answer(answer.report, split_row(np.asarray(row, np.float32), schema))


@dataclass
class _HeldBack:
    """What attackers must know before they answer.

    Args:
        schema: of an answer.
        attackers: devices that attack in this round.
        honest: the others' updates.
        own: what the attackers would send, of those that can send anything.
    """

    schema: Schema
    attackers: Sequence[int]
    honest: dict[int, Row] = field(default_factory=dict)
    own: dict[int, Answer] = field(default_factory=dict)

    def look_at(self, device: int, data: bytes | memoryview) -> None:
        """Keep what there is to know of an answer."""
        answer = decode_answer(bytes(data), self.schema)
        if not isinstance(answer, Answer):
            return
        if device in self.attackers:
            self.own[device] = answer
        else:
            self.honest[device] = answer.row


class Devices(Mapping[int, str]):
    """Numbers of devices and their ids, which are looked up only for those that are drawn."""

    def __init__(self, population: Population, numbers: Sequence[int]) -> None:
        self._population, self._numbers = population, numbers

    def __getitem__(self, device: int) -> str:
        return self._population.id(device)

    def __iter__(self) -> Iterator[int]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)


def _stack(rows: Sequence[Row], schema: Schema) -> Row:
    """`rows` as one array, also if there are none."""
    return np.array(rows, np.float32).reshape(len(rows), sum(map(int, map(np.prod, schema.values()))))


def _row(weights: Weights, schema: Schema) -> Row:
    """The tensors of `schema` in one row; zeros where `weights` has none."""
    parts = (weights.get(name, np.zeros(schema[name], np.float32)) for name in sorted(schema))
    return np.concatenate([part.reshape(-1) for part in parts])
