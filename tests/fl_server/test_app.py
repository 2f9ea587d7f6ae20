"""The fleet over Flower's Message API: who is online, and what a device may put into its reply."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.task_identity import TaskIdentity

from common.protocol.wire import ANSWER, BYTES_KEY, PLAN, PLAN_KEY, WEIGHTS
from fl_server.app import GridFleet
from fl_server.fleet import FleetLostError, Reply


@pytest.fixture(autouse=True)
def _identity(monkeypatch: pytest.MonkeyPatch) -> None:
    # Flower stamps messages with this process-wide identity, which a claimed run would set.
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


class FakeGrid:
    """Nodes that answer every message with what `answer` makes of it."""

    def __init__(self, nodes: Iterable[NodeInfo] = (), answer: Callable[[Message], Message] | None = None):
        self.nodes, self.answer = list(nodes), answer

    def get_nodes(self) -> Iterable[NodeInfo]:
        return self.nodes

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None) -> Iterator[Message]:
        assert self.answer is not None
        for message in messages:
            message.metadata.__dict__["_message_id"] = message.object_id
            yield self.answer(message)


def node(number: int, name: str, since: str) -> NodeInfo:
    return NodeInfo(node_id=number, name=name, last_activated_at=since)


def fleet(*nodes: NodeInfo, answer: Callable[[Message], Message] | None = None) -> GridFleet:
    return GridFleet(FakeGrid(nodes, answer))  # type: ignore[arg-type]


def test_of_two_nodes_of_one_device_the_newest_counts() -> None:
    a, b = "a" * 32, "b" * 32
    online = fleet(
        node(2**63 + 5, a, "2026-01-02T00:00:00+00:00"),
        node(7, a, "2026-01-03T00:00:00+00:00"),
        node(9, a, "2026-01-01T00:00:00+00:00"),
        node(8, b, "2026-01-01T00:00:00+00:00"),
    ).online()
    assert online == {7: a, 8: b}
    assert list(online) == [7, 8]


def test_nodes_without_a_name_are_all_there() -> None:
    assert fleet(node(1, "", "x"), node(2, "", "x")).online() == {1: "", 2: ""}


def test_a_transport_that_is_gone_is_said_so() -> None:
    class Gone(FakeGrid):
        def get_nodes(self) -> Iterable[NodeInfo]:
            raise httpx.ConnectError("gone")

    with pytest.raises(FleetLostError):
        GridFleet(Gone()).online()  # type: ignore[arg-type]


def reply_of(content: RecordDict | None, error: Error | None = None) -> Reply:
    """What the coordinator makes of a device's reply."""

    def answer(message: Message) -> Message:
        assert message.content[PLAN][PLAN_KEY] == b"order"
        assert message.content[WEIGHTS][BYTES_KEY].numpy().tobytes() == b"weights"
        assert (message.metadata.message_type, message.metadata.dst_node_id) == ("train", 5)
        return SimpleNamespace(  # type: ignore[return-value]
            metadata=SimpleNamespace(reply_to_message_id=message.object_id),
            has_error=lambda: error is not None,
            error=error,
            content=content,
        )

    (reply,) = fleet(answer=answer).ask(b"order", "train", 9.0, b"weights", [5])
    assert reply.node == 5
    return reply


def holding(array: Array) -> RecordDict:
    return RecordDict({ANSWER: ArrayRecord({BYTES_KEY: array})})


@pytest.mark.parametrize("data", [b"", b"x", b"\x93NUMPY" * 30, bytes(100_000)])
def test_the_bytes_of_an_answer(data: bytes) -> None:
    reply = reply_of(holding(Array(np.frombuffer(data, np.uint8))))
    assert reply.data is not None
    assert bytes(reply.data) == data


def npy(shape: str, body: bytes, descr: str = "|u1") -> bytes:
    """A .npy file that says what it likes."""
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text = text.ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x" * 127,
        b"x" * 4000,
        npy("(1000000000000,)", b"little"),  # would be a terabyte, were it believed
        npy("(5,)", b"little"),
        npy("(7,)", b"little"),
        npy("(6, 1)", b"little"),
        npy("(6,)", b"little", descr="|O"),
        npy("(3,)", b"little", descr="<u2"),
        npy("(6,)", b"little").replace(b"\x01\x00", b"\x02\x00", 1),
        b"PK\x03\x04" + bytes(500),
        b"\x80\x04\x95" + bytes(500),
    ],
)
def test_an_array_that_is_not_plain_bytes_is_unreadable(data: bytes) -> None:
    reply = reply_of(holding(Array("uint8", (6,), "numpy.ndarray", data)))
    assert reply.data is None
    assert reply.failure == "unreadable answer: ValueError"


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({ANSWER: ConfigRecord({"bytes": b"x"})}),
        RecordDict({ANSWER: ArrayRecord({"other": Array(np.zeros(1, np.uint8))})}),
    ],
)
def test_a_message_without_an_answer(content: RecordDict) -> None:
    reply = reply_of(content)
    assert reply.data is None
    assert reply.failure


def test_an_error_of_the_device() -> None:
    assert reply_of(None, Error(1, "ValueError")) == Reply(5, None, "ValueError")
