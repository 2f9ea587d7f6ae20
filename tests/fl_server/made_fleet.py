"""A coordinator without a network: enrolled devices are functions from an order to the bytes of an answer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.files import sha256
from common.protocol.answer import Report, encode_answer
from common.protocol.plan import Plan, parse_plan, sign_plan
from common.protocol.tensors import Schema, Weights, encode_weights
from common.security.canonical import canonical
from common.security.certificates import device_id
from common.security.envelope import Binding, seal
from common.security.sealing import OpeningKey, SealingKey, Suite
from common.security.statement import SIGNATURE_BYTES, raw_public
from common.task import Task
from fl_server.fleet import Kind, Reply
from fl_server.intake import BareIntake, SealedIntake
from fl_server.registry import Registry
from fl_server.rounds import Exchange, make_plan
from fl_server.senders import Senders
from fl_server.settings import Aggregation, ServerSettings
from fl_server.tables import Device

SCHEMA: Schema = {"layer": (4, 3), "bias": (3,)}
WEIGHTS = {name: np.zeros(shape, np.float32) for name, shape in SCHEMA.items()}
DATA = encode_weights(WEIGHTS)
RUN = "0123456789abcdef"
OPENING = {suite: OpeningKey.generate(suite) for suite in Suite}
PLAN_KEY = Ed25519PrivateKey.generate()


@dataclass(frozen=True)
class Order:
    """What a node is sent, and the keys that the coordinator's trust statement would name."""

    plan: Plan
    data: bytes
    keys: Sequence[SealingKey] = tuple(key.public for key in OPENING.values())

    @property
    def recipient(self) -> SealingKey:
        """The key to seal to."""
        return next(key for key in self.keys if key.id.hex() == self.plan.recipient)


Behaviour = Callable[[Order], Sequence[bytes | str | None]]
"""What a node says to an order, in turn: bytes of an answer, a transport error, or nothing (None)."""


@dataclass
class MadeDevice:
    """A device's identity. Its counter only grows."""

    name: str
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    counter: int = 0

    @property
    def id(self) -> str:
        return device_id(raw_public(self.key))

    def report(self, plan: Plan, **changes: object) -> Report:
        facts = {
            "run": plan.run,
            "round": plan.round,
            "kind": plan.kind,
            "base": plan.base,
            "device": self.id,
        }
        return Report.model_validate(facts | {"clips": 10, "loss": 1.0, "seconds": 0.5} | changes)

    def binding(self, order: Order, **changes: object) -> Binding:
        facts: dict[str, object] = {
            "run": bytes.fromhex(order.plan.run),
            "round": order.plan.round,
            "device": bytes.fromhex(self.id),
            "counter": self.counter,
            "plan": hashlib.sha256(order.data).digest(),
            "base": bytes.fromhex(order.plan.base),
            "not_after": order.plan.expires,
        }
        return Binding(**(facts | changes))  # type: ignore[arg-type]

    def seal(
        self,
        order: Order,
        payload: bytes,
        *,
        signer: Ed25519PrivateKey | None = None,
        recipient: SealingKey | None = None,
        **changes: object,
    ) -> bytes:
        """An envelope around `payload`; `changes` are to its binding."""
        self.counter += 1
        binding = self.binding(order, **changes)
        return seal(payload, binding, signer or self.key, recipient or order.recipient)

    def good(self, seed: int, **changes: object) -> Behaviour:
        """Trains honestly: its delta is `make_delta(seed)`. `changes` are to its report."""
        return lambda order: [
            self.seal(order, encode_answer(self.report(order.plan, **changes), make_delta(seed)))
        ]

    def says(self, payload: Callable[[Plan], bytes]) -> Behaviour:
        """Sends whatever `payload` makes of a plan, in a perfect envelope."""
        return lambda order: [self.seal(order, payload(order.plan))]


@dataclass
class MemoryFleet:
    """Nodes that answer in the order of `order`, by default that of `devices`.

    Args:
        ids: device of every node; empty where not named.
        keys: that answers may be sealed to.
    """

    devices: Mapping[int, Behaviour]
    ids: Mapping[int, str] = field(default_factory=dict)
    order: Sequence[int] | None = None
    keys: Sequence[SealingKey] = Order.keys
    asked: list[tuple[Plan, bytes, tuple[int, ...]]] = field(default_factory=list)

    def online(self) -> dict[int, str]:
        return {node: self.ids.get(node, "") for node in sorted(self.devices)}

    def ask(
        self, order: bytes, kind: Kind, seconds: float, weights: bytes, nodes: Iterable[int]
    ) -> Iterator[Reply]:
        nodes = tuple(nodes)
        plan = parse_plan(order[SIGNATURE_BYTES:] if order[:4] == b"FAS1" else order)
        assert (plan.kind, plan.seconds) == (kind, seconds)
        self.asked.append((plan, weights, nodes))
        for node in self.order or nodes:
            for said in self.devices[node](Order(plan, order, self.keys)):
                if isinstance(said, str):
                    yield Reply(node, None, said)
                elif said is not None:
                    yield Reply(node, said)


class MadeCoordinator:
    """A database, keys, and plans for the devices that were enrolled in it.

    Args:
        suite: answers are sealed with; None for bare ones.
    """

    def __init__(
        self, folder: Path, suite: Suite | None = Suite.HYBRID, settings: ServerSettings | None = None
    ) -> None:
        self.registry = Registry(folder / "coordinator.db")
        self.senders = Senders(self.registry)
        self.settings = settings or make_settings()
        self.suite = suite

    def enrol(self, name: str, **changes: object) -> MadeDevice:
        return enrol(self.registry, name, **changes)

    def change(self, device: MadeDevice, **changes: object) -> None:
        change(self.registry, device, **changes)

    def exchange(
        self,
        cohort: Mapping[int, str],
        kind: Kind = "train",
        number: int = 7,
        weights: bytes = DATA,
        schema: Schema = SCHEMA,
        **changes: object,
    ) -> Exchange:
        """A plan for `cohort`, signed if answers are to be sealed; `changes` are to the plan."""
        key = OPENING[self.suite or Suite.HYBRID]
        plan = make_plan(
            self.settings,
            kind,
            number,
            weights,
            coordinator="c" * 64,
            run=RUN,
            cohort=max(1, len(cohort)),
            recipient=key.public.id.hex(),
        ).model_copy(update=changes)
        if self.suite is None:
            bare = BareIntake(self.senders, plan, schema)
            return Exchange(plan, canonical(plan), weights, schema, cohort, bare, self.senders.name)
        order = sign_plan(plan, PLAN_KEY)
        intake = SealedIntake(self.senders, key, plan, order, schema)
        return Exchange(plan, order, weights, schema, cohort, intake, self.senders.name)

    def close(self) -> None:
        self.senders.close()
        self.registry.close()


def enrol(registry: Registry, name: str, **changes: object) -> MadeDevice:
    """An active device; `changes` are to its row."""
    device, now = MadeDevice(name), datetime.now(UTC)
    facts: dict[str, object] = {
        "id": device.id,
        "name": name,
        "state": "active",
        "identity": raw_public(device.key).hex(),
        "node_key": f"node key of {device.id}",
        "token": "",
        "enrolled": now,
        "expires": now + timedelta(days=60),
    }
    with registry.session() as session:
        session.add(Device(**(facts | changes)))
    return device


def change(registry: Registry, device: MadeDevice, **changes: object) -> None:
    """What an operator, or time, does to a device's row."""
    with registry.session() as session:
        row = session.get_one(Device, device.id)
        for name, value in changes.items():
            setattr(row, name, value)


def rewrite(payload: bytes, old: bytes, new: bytes) -> bytes:
    """An answer whose note is not what a program of ours would ever write."""
    end = 5 + int.from_bytes(payload[1:5])
    note = payload[5:end]
    assert old in note
    note = note.replace(old, new)
    return payload[:1] + len(note).to_bytes(4) + note + payload[end:]


def make_settings(**changes: object) -> ServerSettings:
    """Settings whose aggregate is the mean of the updates as they are."""
    bare = {
        "task": Task(labels=("yes", "no")),
        "aggregation": Aggregation(rule="mean", mixing="off", norm_clipping=0),
    }
    return ServerSettings.model_validate(bare | changes)


def make_delta(seed: int, scale: float = 0.1) -> Weights:
    rng = np.random.default_rng(seed)
    return {name: (scale * rng.normal(size=shape)).astype(np.float32) for name, shape in SCHEMA.items()}


def base_digest() -> str:
    return sha256(DATA)
