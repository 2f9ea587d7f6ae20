"""The fleet over Flower's public Message API."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import httpx
import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from common.protocol.plan import Plan
from common.protocol.wire import ANSWER, BYTES_KEY, PLAN, PLAN_KEY, WEIGHTS
from fl_server.fleet import FleetLostError, Reply
from fl_server.link import CoordinatorGrid

REPORT_BYTES = 1 << 20
"""Room for all an answer holds beside tensors as large as the weights."""


@contextmanager
def hold_fleet(address: str, secret: bytes) -> Iterator[GridFleet]:
    """Be the server app of the run at `address` for as long as the context lasts.

    Raises:
        FleetLostError: the front is gone.
    """
    try:
        grid = CoordinatorGrid.claim(address, secret)
    except httpx.HTTPError as error:
        raise FleetLostError(str(error)) from error
    try:
        yield GridFleet(grid)
    finally:
        grid.close()


class GridFleet:
    """A `Fleet` over any Flower Grid."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def online(self) -> list[int]:
        try:
            return sorted(self._grid.get_node_ids())
        except httpx.HTTPError as error:
            raise FleetLostError(str(error)) from error

    def ask(self, plan: Plan, weights: bytes, nodes: Sequence[int]) -> Iterator[Reply]:
        content = RecordDict(
            {
                PLAN: ConfigRecord({PLAN_KEY: plan.model_dump_json().encode()}),
                WEIGHTS: ArrayRecord({BYTES_KEY: Array(np.frombuffer(weights, np.uint8))}),
            }
        )
        messages = [
            Message(content, dst_node_id=node, message_type=plan.kind, ttl=plan.seconds) for node in nodes
        ]
        asked = {}
        for message in messages:
            asked[message.object_id] = message.metadata.dst_node_id
        if isinstance(self._grid, CoordinatorGrid):
            self._grid.largest_reply = len(weights) + REPORT_BYTES
        try:
            for reply in self._grid.send_and_receive(messages, timeout=plan.seconds):
                node = asked.get(reply.metadata.reply_to_message_id)
                if node is not None:
                    yield _read_reply(node, reply)
        except httpx.HTTPError as error:
            raise FleetLostError(str(error)) from error


def _read_reply(node: int, message: Message) -> Reply:
    if message.has_error():
        return Reply(node, None, message.error.reason or f"Flower error {message.error.code}")
    try:
        record = message.content[ANSWER]
        if isinstance(record, ArrayRecord) and set(record) == {BYTES_KEY}:
            return Reply(node, record[BYTES_KEY].numpy().astype(np.uint8, copy=False).data)
    except Exception as error:  # noqa: BLE001 - whatever a device put into its message
        return Reply(node, None, f"unreadable answer: {type(error).__name__}")
    return Reply(node, None, "the message holds no answer")
