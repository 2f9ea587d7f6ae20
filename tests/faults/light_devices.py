"""Devices that speak to a coordinator over the real link: honest ones, of which few train, and others.

Run as `python -m tests.faults.light_devices FOLDER NAME=BEHAVIOUR ...`, with an invitation as the first line
on standard input; each device is enrolled in FOLDER/NAME and is a thread, and all end with standard input.
Honest ones send `delta_of(NAME)`, but for those that train.
"""

from __future__ import annotations

import hashlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.supercore.task_identity import TaskIdentity
from safetensors.numpy import load

from common.protocol.answer import Refusal, Report, encode_answer, encode_refusal
from common.protocol.plan import Plan
from common.protocol.tensors import Schema, Weights, schema_of
from common.protocol.wire import ANSWER, BYTES_KEY, PLAN, PLAN_KEY, WEIGHTS
from common.security.envelope import Binding, seal
from common.security.sealing import SealingKey, Suite
from fl_client.answers import Answering
from fl_client.device import Device
from fl_client.enrol import enrol
from fl_client.home import DeviceHome
from fl_client.identity import ledger_key
from fl_client.ledger import open_ledger
from fl_client.link import stay_linked
from fl_client.marks import raise_marks

stamp = threading.Lock()
"""Flower knows one node per process and stamps its identity on replies; here there are several."""

training = threading.Lock()


@dataclass(frozen=True)
class Order:
    """What a device was sent."""

    plan: Plan
    data: bytes
    weights: bytes
    schema: Schema


@dataclass
class Light:
    """An enrolled device, and all that it has sent so far."""

    name: str
    device: Device
    sent: list[bytes] = field(default_factory=list)

    @property
    def id(self) -> str:
        return self.device.identity().device

    def report(self, plan: Plan, **changes: object) -> Report:
        facts: dict[str, object] = {
            "run": plan.run,
            "round": plan.round,
            "kind": plan.kind,
            "base": plan.base,
            "device": self.id,
            "clips": 4,
            "correct": 3 if plan.kind == "evaluate" else 0,
        }
        return Report.model_validate(facts | changes)

    def answer(self, order: Order, **changes: object) -> bytes:
        """An honest answer; `changes` are to its report."""
        delta = delta_of(self.name, order.schema) if order.plan.kind == "train" else None
        return encode_answer(self.report(order.plan, **changes), delta)

    def seal(
        self, order: Order, payload: bytes, recipient: SealingKey | None = None, **changes: object
    ) -> bytes:
        """`payload` as a good device sends it; `changes` are to the binding."""
        identity, plan = self.device.identity(), order.plan
        key = self.device.trust.current().envelope_key(bytes.fromhex(plan.recipient))
        assert key is not None
        marks = raise_marks(
            self.device.home.marks, lambda marks: marks.model_copy(update={"counter": marks.counter + 1})
        )
        facts: dict[str, object] = {
            "run": bytes.fromhex(plan.run),
            "round": plan.round,
            "device": bytes.fromhex(identity.device),
            "counter": marks.counter,
            "plan": hashlib.sha256(order.data).digest(),
            "base": bytes.fromhex(plan.base),
            "not_after": plan.expires,
        }
        binding = Binding(**(facts | changes))  # type: ignore[arg-type]
        return seal(payload, binding, identity.signing_key, recipient or key)


Behaviour = Callable[[Light, Order], bytes]

everybody: dict[str, Light] = {}
"""All devices of this process: rogues may use what others hold."""


def delta_of(name: str, schema: Schema) -> Weights:
    """What the honest device `name` sends, whatever the plan."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]))
    return {key: (0.01 * rng.normal(size=shape)).astype(np.float32) for key, shape in sorted(schema.items())}


def rewrite(payload: bytes, old: bytes, new: bytes) -> bytes:
    """An answer whose note is not what a program of ours would ever write."""
    end = 5 + int.from_bytes(payload[1:5])
    note = payload[5:end]
    assert old in note
    note = note.replace(old, new)
    return payload[:1] + len(note).to_bytes(4) + note + payload[end:]


def honest(me: Light, order: Order) -> bytes:
    return me.seal(order, me.answer(order))


def slow(me: Light, order: Order) -> bytes:
    time.sleep(1.5)
    return honest(me, order)


def trains(me: Light, order: Order) -> bytes:
    """As a device of its own does, but in this process: one at a time, for they have one trainer."""
    # Nobody else here needs torch.
    from fl_client.orders import answer_order

    home = me.device.home
    with open_ledger(home, ledger_key(home, None)) as ledger:

        def work(plan: bytes, weights: bytes) -> bytes:
            with training:
                return answer_order(plan, weights, home, me.id, ledger)

        return Answering(home, me.device.outlet(), ledger, work).answer(order.data, order.weights)


def shapes(me: Light, order: Order) -> bytes:
    delta = delta_of(me.name, order.schema)
    wrong = delta | {next(iter(delta)): np.ones((2, 2), np.float32)}
    return me.seal(order, encode_answer(me.report(order.plan), wrong))


def nan(me: Light, order: Order) -> bytes:
    delta = delta_of(me.name, order.schema)
    next(iter(delta.values())).flat[0] = np.nan
    return me.seal(order, encode_answer(me.report(order.plan), delta))


def count(me: Light, order: Order) -> bytes:
    return me.seal(order, rewrite(me.answer(order), b'"clips":4', b'"clips":1000000000'))


def garbage(me: Light, order: Order) -> bytes:
    return b"\x80\x04\x95" + os.urandom(5000)


def nothing(me: Light, order: Order) -> bytes:
    return b""


def unsealed(me: Light, order: Order) -> bytes:
    return me.answer(order)


def oversize(me: Light, order: Order) -> bytes:
    return me.seal(order, me.answer(order) + bytes(4 << 20))


def downgrade(me: Light, order: Order) -> bytes:
    hybrid = me.device.trust.current().envelope[0].sealing_key()
    weak = SealingKey(Suite.X25519, hybrid.raw[-32:])
    return me.seal(order, me.answer(order), recipient=weak)


def someone(me: Light) -> Light:
    """An honest device in this process that has already sent something."""
    while True:
        for other in list(everybody.values()):
            if other is not me and other.sent and other.name in HONEST:
                return other
        time.sleep(0.01)


def borrow(me: Light, order: Order) -> bytes:
    """Signed by A, and sent as B: A's new envelope over this device's link."""
    other = someone(me)
    return other.seal(order, other.answer(order))


def echo(me: Light, order: Order) -> bytes:
    """A's envelope of this round once more, over this device's link."""
    return someone(me).sent[-1]


def pose(me: Light, order: Order) -> bytes:
    """An envelope in A's name, signed by this device."""
    return me.seal(order, me.answer(order), device=bytes.fromhex(someone(me).id))


def namesake(me: Light, order: Order) -> bytes:
    """A good envelope around a report in A's name."""
    return me.seal(order, me.answer(order, device=someone(me).id))


def run(me: Light, order: Order) -> bytes:
    return me.seal(order, me.answer(order), run=b"elsewher")


def plan(me: Light, order: Order) -> bytes:
    return me.seal(order, me.answer(order), plan=bytes(32))


def replay(me: Light, order: Order) -> bytes:
    """Honest at first; from then on its first answer again."""
    return me.sent[0] if me.sent else honest(me, order)


def reuse(me: Light, order: Order) -> bytes:
    """Honest at first; from then on new answers with the first one's counter."""
    return me.seal(order, me.answer(order), counter=1) if me.sent else honest(me, order)


def markup(me: Light, order: Order) -> bytes:
    return me.seal(order, encode_refusal(Refusal(code="FA-2002", reason="[/bold] [red]no[/red]")))


def control(me: Light, order: Order) -> bytes:
    no = encode_refusal(Refusal(code="FA-2002", reason="No."))
    return me.seal(order, rewrite(no, b"No.", b"\\u001b[2J"))


def error(me: Light, order: Order) -> bytes:
    raise ValueError("on purpose")


def never(me: Light, order: Order) -> bytes:
    threading.Event().wait()
    raise AssertionError


def die(me: Light, order: Order) -> bytes:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


HONEST = ("kitchen", "cellar")
"""Names of honest devices, wherever they are used together with others."""

BEHAVIOURS: dict[str, Behaviour] = {
    behaviour.__name__: behaviour
    for behaviour in (
        honest,
        slow,
        trains,
        shapes,
        nan,
        count,
        garbage,
        nothing,
        unsealed,
        oversize,
        downgrade,
        borrow,
        echo,
        pose,
        namesake,
        run,
        plan,
        replay,
        reuse,
        markup,
        control,
        error,
        never,
        die,
    )
}


def make_app(me: Light, behave: Behaviour) -> ClientApp:
    app = ClientApp()

    def respond(message: Message, context: Context) -> Message:
        data = message.content[PLAN][PLAN_KEY]
        plan = me.device.outlet().open(data)
        weights = message.content[WEIGHTS][BYTES_KEY].numpy().tobytes()
        answer = behave(me, Order(plan, data, weights, schema_of(load(weights))))
        me.sent.append(answer)
        array = Array(np.frombuffer(answer, np.uint8))
        with stamp:
            TaskIdentity.run_id, TaskIdentity.node_id = context.run_id, context.node_id
            return Message(RecordDict({ANSWER: ArrayRecord({BYTES_KEY: array})}), reply_to=message)

    app.train()(respond)
    app.evaluate()(respond)
    return app


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    folder, *devices = sys.argv[1:]
    invitation = sys.stdin.readline().strip()
    stop = threading.Event()
    for words in devices:
        name, behaviour = words.split("=")
        home = DeviceHome(Path(folder) / name)
        enrol(home, invitation, name=name)
        me = everybody[name] = Light(name, Device(home))
        arguments = (me.device.access, make_app(me, BEHAVIOURS[behaviour]), stop, lambda link: None)
        threading.Thread(target=stay_linked, args=arguments, daemon=True).start()
    while os.read(0, 1):
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
