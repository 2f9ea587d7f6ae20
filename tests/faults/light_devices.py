"""Devices that speak to a coordinator over the real link but do not train: honest ones and others.

Run as `python -m tests.faults.light_devices ADDRESS CA NAME=BEHAVIOUR ...`; each device is a thread, and all
end with standard input. Honest ones send `delta_of(NAME)`.
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
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.supercore.task_identity import TaskIdentity
from safetensors.numpy import load

from common.protocol.answer import Refusal, Report, encode_answer, encode_refusal
from common.protocol.plan import Plan, parse_plan
from common.protocol.tensors import Schema, Weights, encode_weights, schema_of
from common.protocol.wire import ANSWER, BYTES_KEY, PLAN, PLAN_KEY, WEIGHTS
from fl_client.link import stay_linked

Behaviour = Callable[[str, Plan, Schema], bytes]

identity = threading.Lock()
"""Flower knows one node per process and stamps its identity on replies; here there are several."""


def delta_of(name: str, schema: Schema) -> Weights:
    """What the honest device `name` sends, whatever the plan."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]))
    return {key: (0.01 * rng.normal(size=shape)).astype(np.float32) for key, shape in sorted(schema.items())}


def report_on(name: str, plan: Plan) -> Report:
    return Report(
        run=plan.run,
        round=plan.round,
        kind=plan.kind,
        base=plan.base,
        device=name,
        clips=4,
        correct=3 if plan.kind == "evaluate" else 0,
    )


def honest(name: str, plan: Plan, schema: Schema) -> bytes:
    return encode_answer(report_on(name, plan), delta_of(name, schema) if plan.kind == "train" else None)


def slow(name: str, plan: Plan, schema: Schema) -> bytes:
    time.sleep(1.5)
    return honest(name, plan, schema)


def shapes(name: str, plan: Plan, schema: Schema) -> bytes:
    delta = delta_of(name, schema)
    first = next(iter(delta))
    return encode_answer(report_on(name, plan), delta | {first: np.ones((2, 2), np.float32)})


def nan(name: str, plan: Plan, schema: Schema) -> bytes:
    delta = delta_of(name, schema)
    next(iter(delta.values())).flat[0] = np.nan
    return encode_answer(report_on(name, plan), delta)


def count(name: str, plan: Plan, schema: Schema) -> bytes:
    note = report_on(name, plan).model_dump_json().replace('"clips":4', '"clips":1000000000')
    return encode_weights(delta_of(name, schema), note)


def garbage(name: str, plan: Plan, schema: Schema) -> bytes:
    return b"\x80\x04\x95" + os.urandom(5000)


def nothing(name: str, plan: Plan, schema: Schema) -> bytes:
    return b""


def markup(name: str, plan: Plan, schema: Schema) -> bytes:
    return encode_refusal(Refusal(code="FA-2002", reason="[/bold] \x1b[2J"))


def error(name: str, plan: Plan, schema: Schema) -> bytes:
    raise ValueError("on purpose")


def never(name: str, plan: Plan, schema: Schema) -> bytes:
    threading.Event().wait()
    raise AssertionError


def die(name: str, plan: Plan, schema: Schema) -> bytes:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


BEHAVIOURS: dict[str, Behaviour] = {
    behaviour.__name__: behaviour
    for behaviour in (honest, slow, shapes, nan, count, garbage, nothing, markup, error, never, die)
}


def make_app(name: str, behave: Behaviour) -> ClientApp:
    app = ClientApp()

    def respond(message: Message, context: Context) -> Message:
        plan = parse_plan(message.content[PLAN][PLAN_KEY])
        schema = schema_of(load(message.content[WEIGHTS][BYTES_KEY].numpy().tobytes()))
        answer = Array(np.frombuffer(behave(name, plan, schema), np.uint8))
        with identity:
            TaskIdentity.run_id, TaskIdentity.node_id = context.run_id, context.node_id
            return Message(RecordDict({ANSWER: ArrayRecord({BYTES_KEY: answer})}), reply_to=message)

    app.train()(respond)
    app.evaluate()(respond)
    return app


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    address, ca, *devices = sys.argv[1:]
    stop = threading.Event()
    for device in devices:
        name, behaviour = device.split("=")
        app = make_app(name, BEHAVIOURS[behaviour])
        arguments = (address, Path(ca).read_bytes(), app, stop, lambda link: None)
        threading.Thread(target=stay_linked, args=arguments, daemon=True).start()
    while os.read(0, 1):
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
