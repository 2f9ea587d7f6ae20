"""The fleet over Flower's public Message API."""

from __future__ import annotations

import io
import logging
import queue
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import httpx
import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from common.protocol.answer import LARGEST_NOTE
from common.protocol.wire import ANSWER, BYTES_KEY, PLAN, PLAN_KEY, WEIGHTS
from common.security.envelope import LARGEST_OVERHEAD
from fl_server.fleet import FleetLostError, Kind, Reply
from fl_server.link import CoordinatorGrid

if TYPE_CHECKING:
    from flwr.clientapp import ClientApp
    from flwr.superlink.grid import InMemoryGrid

REPORT_BYTES = LARGEST_NOTE + LARGEST_OVERHEAD + (16 << 10)
"""Room for all that a Flower message holds beside tensors as large as the weights."""


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

    def online(self) -> dict[int, str]:
        try:
            nodes = sorted(self._grid.get_nodes(), key=lambda node: (node.last_activated_at, node.node_id))
        except httpx.HTTPError as error:
            raise FleetLostError(str(error)) from error
        # A device with new keys has a new node, and for a while its old one is there too: the newest counts.
        newest = {node.name or node.node_id: node for node in nodes}
        return dict(sorted((node.node_id, node.name) for node in newest.values()))

    def ask(
        self, order: bytes, kind: Kind, seconds: float, weights: bytes, nodes: Iterable[int]
    ) -> Iterator[Reply]:
        messages = _messages(order, kind, seconds, weights, nodes)
        asked = {}
        for message in messages:
            asked[message.object_id] = message.metadata.dst_node_id
        if isinstance(self._grid, CoordinatorGrid):
            self._grid.largest_reply = (len(weights) if kind == "train" else 0) + REPORT_BYTES
        try:
            for message in self._grid.send_and_receive(messages, timeout=seconds):
                node = asked.get(message.metadata.reply_to_message_id)
                if node is not None:
                    reply = _read_reply(node, message)
                    # Without this, the message would stay in memory until the next one is there too.
                    del message
                    yield reply
                    del reply
        except httpx.HTTPError as error:
            raise FleetLostError(str(error)) from error


@contextmanager
def hold_virtual_fleet(app: ClientApp, devices: int, workers: int) -> Iterator[VirtualFleet]:
    """Be the server app of Flower's own simulation of `app` for as long as the context lasts.

    Args:
        app: answers for the virtual node that has its device's number as "partition-id".
        workers: processes of Ray that run it.

    Raises:
        FleetLostError: the simulation does not start.
    """
    from flwr.simulation import run_simulation

    grids: queue.Queue[Grid | None] = queue.Queue()
    over, server = threading.Event(), ServerApp()

    @server.main()
    def _hand_over(grid: Grid, context: Context) -> None:
        grids.put(grid)
        over.wait()

    def simulate() -> None:
        try:
            run_simulation(server, app, devices, backend_config=_ray_config(workers))
        finally:
            over.set()
            grids.put(None)

    flower = threading.Thread(target=simulate)
    with _quiet():
        flower.start()
        try:
            grid = grids.get()
            if grid is None:
                raise FleetLostError("Flower's simulation did not start")
            yield VirtualFleet(cast("InMemoryGrid", grid), devices, over)
        finally:
            over.set()
            flower.join()


class VirtualFleet:
    """A `Fleet` over Flower's own simulation. The nodes are the devices' numbers.

    Args:
        over: set when the simulation has ended.
    """

    def __init__(self, grid: InMemoryGrid, devices: int, over: threading.Event) -> None:
        self._grid, self._over = grid, over
        # Partitions are numbered in the order in which their nodes are made, and listed.
        while len(nodes := grid.state.get_node_info()) < devices:
            self._wait()
        self._nodes = [node.node_id for node in nodes]

    def online(self) -> dict[int, str]:
        return dict.fromkeys(range(len(self._nodes)), "")

    def ask(
        self, order: bytes, kind: Kind, seconds: float, weights: bytes, nodes: Iterable[int]
    ) -> Iterator[Reply]:
        devices, deadline = list(nodes), time.monotonic() + seconds
        messages = _messages(order, kind, seconds, weights, [self._nodes[device] for device in devices])
        asked = dict(zip(self._grid.push_messages(messages), devices, strict=True))
        while asked and time.monotonic() < deadline:
            for message in self._grid.pull_messages(asked):
                yield _read_reply(asked.pop(message.metadata.reply_to_message_id), message)
            self._wait()

    def _wait(self) -> None:
        """Wait for a moment.

        Raises:
            FleetLostError: the simulation has ended.
        """
        if self._over.wait(_PULL_SECONDS):
            raise FleetLostError("Flower's simulation has ended")


def _ray_config(workers: int) -> dict[str, dict[str, Any]]:
    return {
        "init_args": {
            "address": "local",
            "num_cpus": workers,
            "logging_level": logging.ERROR,
            "log_to_driver": False,
        },
        "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Let Flower report nothing but errors."""
    flower = logging.getLogger("flwr")
    before = flower.level
    flower.setLevel(logging.ERROR)
    try:
        yield
    finally:
        flower.setLevel(before)


def _messages(
    order: bytes, kind: Kind, seconds: float, weights: bytes, nodes: Iterable[int]
) -> list[Message]:
    content = RecordDict(
        {
            PLAN: ConfigRecord({PLAN_KEY: order}),
            WEIGHTS: ArrayRecord({BYTES_KEY: Array(np.frombuffer(weights, np.uint8))}),
        }
    )
    return [Message(content, dst_node_id=node, message_type=kind, ttl=seconds) for node in nodes]


def _read_reply(node: int, message: Message) -> Reply:
    if message.has_error():
        return Reply(node, None, message.error.reason or f"Flower error {message.error.code}")
    try:
        record = message.content[ANSWER]
        if isinstance(record, ArrayRecord) and set(record) == {BYTES_KEY}:
            return Reply(node, _bytes_of(record[BYTES_KEY]))
    except Exception as error:  # noqa: BLE001 - whatever a device put into its message
        return Reply(node, None, f"unreadable answer: {type(error).__name__}")
    return Reply(node, None, "the message holds no answer")


def _bytes_of(array: Array) -> memoryview:
    """What is in an array of bytes, not copied, and not read by a parser that believes what its header says.

    Raises:
        ValueError: it is not one, as numpy writes them (numpy.lib.format, version 1.0).
    """
    view = memoryview(array.data)
    header = io.BytesIO()
    length = len(view) - _ARRAY_HEADER_BYTES
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (max(0, length),)}
    )
    if view[:_ARRAY_HEADER_BYTES] != header.getvalue():
        raise ValueError("not an array of bytes")
    return view[_ARRAY_HEADER_BYTES:]


_ARRAY_HEADER_BYTES = 128

_PULL_SECONDS = 0.02
