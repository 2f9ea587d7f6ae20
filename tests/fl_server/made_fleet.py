"""A fleet in memory: devices are functions from an order to the bytes of an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from common.files import sha256
from common.protocol.answer import Report, encode_answer
from common.protocol.plan import Plan
from common.protocol.tensors import Weights, encode_weights
from common.task import Task
from fl_server.fleet import Reply
from fl_server.settings import ServerSettings

SCHEMA = {"layer": (4, 3), "bias": (3,)}
WEIGHTS = {name: np.zeros(shape, np.float32) for name, shape in SCHEMA.items()}
DATA = encode_weights(WEIGHTS)

Device = Callable[[Plan], Sequence[bytes | str | None]]
"""What a node says to a plan, in order: bytes of an answer, a transport error, or nothing (None)."""


@dataclass
class MemoryFleet:
    """Nodes 0, 1, ... in the order of `devices`, answering in the order of `order` (by default the same)."""

    devices: Mapping[int, Device]
    order: Sequence[int] | None = None
    asked: list[tuple[Plan, bytes, tuple[int, ...]]] = field(default_factory=list)

    def online(self) -> list[int]:
        return sorted(self.devices)

    def ask(self, plan: Plan, weights: bytes, nodes: Sequence[int]) -> Iterator[Reply]:
        self.asked.append((plan, weights, tuple(nodes)))
        for node in self.order or nodes:
            for said in self.devices[node](plan):
                if isinstance(said, str):
                    yield Reply(node, None, said)
                elif said is not None:
                    yield Reply(node, said)


def make_settings(**changes: object) -> ServerSettings:
    return ServerSettings.model_validate({"task": Task(labels=("yes", "no"))} | changes)


def make_delta(seed: int, scale: float = 0.1) -> Weights:
    rng = np.random.default_rng(seed)
    return {name: (scale * rng.normal(size=shape)).astype(np.float32) for name, shape in SCHEMA.items()}


def report_on(plan: Plan, device: str, **changes: object) -> Report:
    facts = {"run": plan.run, "round": plan.round, "kind": plan.kind, "base": plan.base, "device": device}
    return Report.model_validate(facts | {"clips": 10, "loss": 1.0, "seconds": 0.5} | changes)


def good(name: str, seed: int, **changes: object) -> Device:
    """A device that trains honestly: its delta is `make_delta(seed)`."""
    return lambda plan: [encode_answer(report_on(plan, name, **changes), make_delta(seed))]


def base_digest() -> str:
    return sha256(DATA)
