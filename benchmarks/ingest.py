"""Updates a coordinator takes in a second on one core: look up, verify, open, check, fold in.

    python -m benchmarks.ingest [--values 100000] [--updates 400] [--repeats 7] [--suite hybrid] [--json]

The updates come from as many enrolled devices, each signed with its own key, and go through the code of a
round. The clock runs from the moment that the bytes of an update have been put together, as Flower's client
has just done, to its end in the sum. Beside it, in the same run and in turn with it, a bare loop over as many
bytes that does only what cannot be left out: one SHA-256, one HPKE opening, one addition of floats. The steps
of a round are timed apart, in passes of their own. Figures are medians over the repeats, in processor time of
one thread.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.protocol.answer import Answer, Report, decode_answer, encode_answer
from common.protocol.plan import Plan, sign_plan
from common.protocol.tensors import Row, Schema, Weights, encode_weights
from common.security.certificates import device_id
from common.security.envelope import Binding, open_envelope, parse_envelope, seal, verify_envelope
from common.security.sealing import OpeningKey, Suite
from common.security.statement import raw_public
from common.task import Task
from fl_server.fleet import Kind, Reply
from fl_server.intake import SealedIntake
from fl_server.registry import Registry
from fl_server.rounds import Collected, Exchange, make_plan, train_cohort
from fl_server.rules.mean import ExactMean
from fl_server.rules.registry import make_rule
from fl_server.senders import Senders
from fl_server.settings import Aggregation, ServerSettings
from fl_server.tables import Device

SETTINGS = ServerSettings(
    task=Task(labels=("a", "b")), aggregation=Aggregation(rule="mean", mixing="off", norm_clipping=0)
)
TENSORS = 25
"""As many as the default model has."""

LIMIT = 1 << 30


def schema_for(values: int) -> Schema:
    """`TENSORS` tensors with about `values` values in all."""
    return {f"block{number:02d}.weight": (values // TENSORS // 8, 8) for number in range(TENSORS)}


@dataclass(frozen=True)
class Made:
    """What was made before the clock runs: a plan, and one sealed update of every device."""

    schema: Schema
    weights: bytes
    plan: Plan
    order: bytes
    key: OpeningKey
    updates: dict[str, bytes]
    identities: dict[str, bytes]

    @property
    def update_bytes(self) -> int:
        return len(next(iter(self.updates.values())))


def make(registry: Registry, values: int, updates: int, suite: Suite) -> Made:
    """Enrol `updates` devices and let each seal an update."""
    schema, rng = schema_for(values), np.random.default_rng(0)
    weights = encode_weights({name: np.zeros(shape, np.float32) for name, shape in schema.items()})
    key, plan_key = OpeningKey.generate(suite), Ed25519PrivateKey.generate()
    plan = make_plan(
        SETTINGS,
        "train",
        1,
        weights,
        coordinator="0" * 64,
        run="0" * 15 + "1",
        cohort=updates,
        recipient=key.public.id.hex(),
    )
    order = sign_plan(plan, plan_key)
    sealed, identities = {}, {}
    now = datetime.now(UTC)
    with registry.session() as session:
        for number in range(updates):
            signer = Ed25519PrivateKey.generate()
            public = raw_public(signer)
            device = device_id(public)
            session.add(
                Device(
                    id=device,
                    name=f"device{number}",
                    state="active",
                    identity=public.hex(),
                    node_key=str(number),
                    token="",
                    enrolled=now,
                    expires=now + timedelta(days=1),
                )
            )
            delta: Weights = {
                name: rng.standard_normal(shape, np.float32) * np.float32(1e-3)
                for name, shape in schema.items()
            }
            report = Report(run=plan.run, round=1, kind="train", base=plan.base, device=device, clips=10)
            binding = Binding(
                bytes.fromhex(plan.run),
                1,
                bytes.fromhex(device),
                1,
                hashlib.sha256(order).digest(),
                bytes.fromhex(plan.base),
                plan.expires,
            )
            sealed[device] = seal(encode_answer(report, delta), binding, signer, key.public)
            identities[device] = public
    return Made(schema, weights, plan, order, key, sealed, identities)


def arrive(data: bytes) -> bytes:
    """A copy: what was just put together from its parts."""
    return bytes(memoryview(data))


class Fleet:
    """Devices whose answers are there as soon as they are asked for.

    `seconds` is what the asker spends on them.
    """

    def __init__(self, updates: Sequence[bytes]) -> None:
        self._updates = updates
        self.seconds = 0.0

    def online(self) -> dict[int, str]:
        return {}

    def ask(
        self, order: bytes, kind: Kind, seconds: float, weights: bytes, nodes: Iterable[int]
    ) -> Iterator[Reply]:
        for node in nodes:
            reply = Reply(node, arrive(self._updates[node]))
            started = time.process_time()
            yield reply
            self.seconds += time.process_time() - started
            del reply


def time_round(made: Made, senders: Senders) -> float:
    """Seconds an update, through the code of a round."""
    cohort = dict(enumerate(made.updates))
    intake = SealedIntake(senders, made.key, made.plan, made.order, made.schema)
    exchange = Exchange(made.plan, made.order, made.weights, made.schema, cohort, intake, senders.name)
    fleet, collected = Fleet(list(made.updates.values())), Collected()
    rule = make_rule(SETTINGS, made.schema, len(cohort))
    train_cohort(fleet, SETTINGS, exchange, collected, lambda report: None, rule)
    assert len(collected.parts) == len(cohort), collected.failures[:3]
    return fleet.seconds / len(cohort)


def time_bare(sealed: Sequence[bytes], key: OpeningKey, values: int) -> float:
    """Seconds an update: SHA-256, HPKE opening and an addition of floats, and nothing else."""
    total: Row = np.zeros(values, np.float32)
    seconds = 0.0
    for data in sealed:
        arrived = arrive(data)
        started = time.process_time()
        hashlib.sha256(arrived).digest()
        total += np.frombuffer(key.open(arrived, b""), np.float32)
        seconds += time.process_time() - started
    return seconds / len(sealed)


class Laps:
    """A stopwatch: seconds of each step, over all updates."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._at = 0.0

    def begin(self) -> None:
        self._at = time.process_time()

    def lap(self, name: str) -> None:
        now = time.process_time()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._at
        self._at = time.process_time()


def time_steps(made: Made, senders: Senders) -> dict[str, float]:
    """Seconds an update for each step of a round by itself."""
    mean, laps = ExactMean(made.schema, 1.001 * 100 * len(made.updates)), Laps()
    for device, data in made.updates.items():
        arrived = arrive(data)
        laps.begin()
        envelope = parse_envelope(arrived, LIMIT)
        laps.lap("parse the envelope")
        sender = senders.active(device)
        laps.lap("look the device up")
        _ = envelope.signed
        laps.lap("hash (SHA-256)")
        verify_envelope(envelope, sender.identity)
        laps.lap("signature (Ed25519)")
        payload = open_envelope(envelope, sender.identity, made.key)
        laps.lap("open (HPKE)")
        answer = decode_answer(payload, made.schema)
        assert isinstance(answer, Answer)
        laps.lap("decode, check every value, norm")
        mean.fold(answer.row, norm=answer.norm)
        laps.lap("fold into the exact sum")
        del arrived, envelope, payload, answer
    laps.seconds["open (HPKE)"] -= laps.seconds["signature (Ed25519)"]  # which is checked there once more
    return {name: seconds / len(made.updates) for name, seconds in laps.seconds.items()}


def measure(values: int, updates: int, repeats: int, suite: Suite) -> dict[str, object]:
    """All figures, in seconds an update; medians over the repeats."""
    with tempfile.TemporaryDirectory() as folder:
        registry = Registry(Path(folder) / "coordinator.db")
        senders = Senders(registry)
        made = make(registry, values, updates, suite)
        count = sum(math.prod(shape) for shape in made.schema.values())
        bare = [made.key.public.seal(bytes(4 * count), b"") for _ in range(updates)]
        rounds, bares, steps = [], [], []
        for _ in range(repeats):
            rounds.append(time_round(made, senders))
            bares.append(time_bare(bare, made.key, count))
            steps.append(time_steps(made, senders))
        senders.close()
        registry.close()
    return {
        "benchmark": "ingest",
        "suite": suite.name,
        "update_bytes": made.update_bytes,
        "updates": updates,
        "repeats": repeats,
        "seconds": statistics.median(rounds),
        "seconds_fastest": min(rounds),
        "updates_a_second": 1 / statistics.median(rounds),
        "bare_seconds": statistics.median(bares),
        "steps": {name: statistics.median(step[name] for step in steps) for name in steps[0]},
    }


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--values", type=int, default=100_000, help="float32 values in an update")
    parser.add_argument("--updates", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--suite", choices=["hybrid", "x25519"], default="hybrid")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    suite = Suite.HYBRID if options.suite == "hybrid" else Suite.X25519
    result = measure(options.values, options.updates, options.repeats, suite)
    seconds, bare, steps = result["seconds"], result["bare_seconds"], result["steps"]
    print(f"{options.updates} updates of {result['update_bytes']} bytes, sealed with {suite.name}")
    print(f"  the code of a round   {1e6 * seconds:7.0f} us an update   {1 / seconds:6.0f} updates a second")
    print(f"  bare loop             {1e6 * bare:7.0f} us              {1 / bare:6.0f}")
    print("of which, each step by itself:")
    for name, cost in steps.items():
        print(f"  {name:<31} {1e6 * cost:5.0f} us")
    print(f"  {'rest (reports, records)':<31} {1e6 * (seconds - sum(steps.values())):5.0f} us")
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
