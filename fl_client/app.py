"""The device as an ordinary Flower `ClientApp`: bytes in, bytes out, also under a stock SuperNode."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from common.errors import ProtocolError
from common.protocol.wire import ANSWER, BYTES_KEY, PLAN, PLAN_KEY, WEIGHTS

Handler = Callable[[bytes, bytes], bytes]
"""(bytes of a plan, bytes of weights) -> bytes of an answer."""


def make_client_app(handle: Handler) -> ClientApp:
    """A `ClientApp` that answers train and evaluate messages with `handle`."""
    app = ClientApp()

    def respond(message: Message, context: Context) -> Message:
        answer = handle(*_read_order(message.content))
        array = Array(np.frombuffer(answer, np.uint8))
        return Message(RecordDict({ANSWER: ArrayRecord({BYTES_KEY: array})}), reply_to=message)

    app.train()(respond)
    app.evaluate()(respond)
    return app


def make_virtual_client_app(handler_of: Callable[[int], Handler]) -> ClientApp:
    """The same `ClientApp` for all devices of Flower's own simulation.

    Args:
        handler_of: what answers for the device with this number, that of its node's partition.
    """
    app = ClientApp()

    def respond(message: Message, context: Context) -> Message:
        device = make_client_app(handler_of(int(context.node_config["partition-id"])))
        return device(message=message, context=context)

    app.train()(respond)
    app.evaluate()(respond)
    return app


def _read_order(content: RecordDict) -> tuple[bytes, bytes]:
    match content.get(PLAN), content.get(WEIGHTS):
        case ConfigRecord() as plan, ArrayRecord() as weights if PLAN_KEY in plan and BYTES_KEY in weights:
            data = plan[PLAN_KEY]
            if isinstance(data, bytes):
                return data, weights[BYTES_KEY].numpy().tobytes()
    raise ProtocolError("FA-3005", "The message holds no plan.", "Update the coordinator.")
