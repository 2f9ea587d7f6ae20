"""Contracts with Flower 1.41's internals: a real front in a child process, and the coordinator's end."""

from __future__ import annotations

import json
import os
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import httpx
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PushMessagesRequest, RegisterNodeFleetRequest
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import ObjectUnavailableError

from common.protocol.tensors import encode_weights
from fl_server import link
from fl_server.app import hold_fleet
from fl_server.fleet import FleetLostError, Kind
from fl_server.link import (
    CoordinatorGrid,
    read_confirmed,
    read_key,
    read_orders,
    read_reply,
    read_wanted,
)
from fl_server.replies import Announced, _limited, assemble, parts_of
from tests.fl_server.made_front import EnrolledDevice, Front, in_thread, running_front
from tests.processes import wait_for

FIVE_MEGABYTES = encode_weights({"large": np.random.default_rng(0).normal(size=1_300_000).astype(np.float32)})


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    with running_front(tmp_path_factory.mktemp("link")) as front:
        front.release_weights(len(FIVE_MEGABYTES))
        yield front


@pytest.fixture(scope="module")
def devices(front: Front) -> list[EnrolledDevice]:
    """Two that are linked."""
    devices = [front.enrol(name) for name in ("kitchen", "hall")]
    for device in devices:
        assert device.activate().is_success
    return devices


@contextmanager
def answering(devices: Sequence[EnrolledDevice], seen: dict[str, bytes], *, kept: bool) -> Iterator[None]:
    """Devices that send the weights back that they are given; what they were given is `seen`."""

    def serve(device: EnrolledDevice) -> None:
        order = device.await_order(60)
        seen[device.id] = b"".join(device.fetch_all(order).values())
        device.confirm(order).raise_for_status()
        # What is too large is dropped, be it that the rest of it is still on its way.
        with nullcontext() if kept else suppress(AssertionError, httpx.HTTPStatusError):
            device.answer(order, FIVE_MEGABYTES)

    threads = [threading.Thread(target=serve, args=(device,)) for device in devices]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_an_order_and_five_megabytes_go_out_and_five_come_back(
    front: Front, devices: list[EnrolledDevice], kind: Kind
) -> None:
    seen: dict[str, bytes] = {}
    nodes = {device.node.node_id: device.id for device in devices}
    assert front.fleet.online() == nodes
    with answering(devices, seen, kept=kind == "train"):
        replies = {}
        for reply in front.fleet.ask(b"a plan for " + kind.encode(), kind, 60, FIVE_MEGABYTES, list(nodes)):
            replies[nodes[reply.node]] = (reply.failure, bytes(reply.data or b""))
    if kind == "train":
        assert replies == dict.fromkeys(seen, ("", FIVE_MEGABYTES))
    else:
        # An evaluation's answer holds no tensors, so none so large is let in.
        assert {data for _, data in replies.values()} == {b""}
    assert sorted(seen) == sorted(nodes.values())
    for given in seen.values():
        assert b"a plan for " + kind.encode() in given
        assert given.count(FIVE_MEGABYTES[1000:2000]) == 1


def test_a_node_that_does_not_exist_keeps_nobody_waiting(front: Front) -> None:
    # The test's own time is over sooner.
    replies = list(front.fleet.ask(b"plan", "train", 1800, b"weights", [12345]))
    assert all(reply.data is None for reply in replies)


def test_nobody_asked_nobody_waited_for(front: Front) -> None:
    assert list(front.fleet.ask(b"plan", "train", 20, b"weights", [])) == []


def test_a_device_is_online_from_its_link_to_its_end(front: Front) -> None:
    before = dict(front.fleet.online())
    device = front.enrol("guest")
    assert front.fleet.online() == before
    assert device.activate().is_success
    assert front.fleet.online() == before | {device.node.node_id: device.id}
    assert device.beat().is_success
    assert device.deactivate().is_success
    assert front.fleet.online() == before


def test_without_the_secret_nobody_becomes_the_coordinator(front: Front) -> None:
    with pytest.raises(FleetLostError), hold_fleet(front.process.private_address, b"x" * 32):
        pass
    grid = CoordinatorGrid(front.process.private_address, "forged token")
    with pytest.raises(httpx.HTTPStatusError):
        list(grid.get_node_ids())


def test_a_front_that_is_gone_is_said_to_be(tmp_path: Path) -> None:
    with running_front(tmp_path / "gone") as front:
        os.kill(front.process.pid, 9)
        with (
            pytest.raises(FleetLostError),
            hold_fleet(front.process.private_address, front.process.secret),
        ):
            pass
        folder = Path(front.process.private_address).parent
    assert not folder.exists(), "what it left is taken away"


def test_the_private_side_is_a_socket_that_others_cannot_reach(front: Front) -> None:
    path = Path(front.process.private_address)
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    client = httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://coordinator")
    with client:
        for closed in ("/docs", "/openapi.json", "/v1/control/start-run", "/v1/fleet/register-node"):
            assert client.post(closed).status_code == 404, closed
        assert client.post("/v1/runtime/get-nodes").status_code not in {200, 404}


def test_the_private_socket_is_gone_with_the_front(tmp_path: Path) -> None:
    with running_front(tmp_path / "ending") as front:
        folder = Path(front.process.private_address).parent
        assert folder.exists()
    assert not folder.exists()


def test_under_insecure_loopback_nodes_register_themselves_again_and_again(tmp_path: Path) -> None:
    with running_front(tmp_path / "open", insecure=True) as front:
        device = front.enrol("kitchen")
        for _ in range(2):
            request = RegisterNodeFleetRequest(public_key=device.made.node_pem.encode())
            assert device.say("register-node", request).is_success
            assert device.activate().is_success
        assert front.fleet.online() == {device.node.node_id: ""}
        bare = device.web.post(
            "/v1/fleet/send-node-heartbeat", content=b"", headers={"content-type": "application/protobuf"}
        )
        assert bare.status_code != 401, "nobody proves anything here"
        assert device.web.post("/v1/fleet/get-fab", content=b"").status_code == 404


def test_a_reply_larger_than_any_honest_one_is_not_let_in(
    front: Front, devices: list[EnrolledDevice]
) -> None:
    device = devices[0]
    replies = []

    def ask() -> None:
        asked = front.fleet.ask(b"plan", "train", 30, b"small", [device.node.node_id])
        replies.extend((reply.failure, reply.data) for reply in asked)

    thread = threading.Thread(target=ask)
    thread.start()
    order = device.await_order()
    with suppress(AssertionError):  # the rest of it is turned away
        device.answer(order, FIVE_MEGABYTES)
    thread.join(timeout=60)
    wait_for(lambda: bool(replies), "the end of waiting")
    assert replies[0][0]
    assert replies[0][1] is None


def test_the_parts_of_a_reply_are_counted() -> None:
    fetched: list[str] = []

    def fetch(name: str) -> bytes:
        fetched.append(name)
        return bytes(1000)

    limited = _limited(fetch, 2500)
    assert len(limited("a")) == len(limited("b")) == 1000
    with pytest.raises(ValueError, match="2500 bytes"):
        limited("c")
    assert fetched == ["a", "b", "c"]


@pytest.mark.parametrize("read", [read_key, read_reply, read_wanted, read_confirmed, read_orders])
def test_what_is_not_protobuf_is_a_value_error(read: object) -> None:
    assert callable(read)
    with pytest.raises(ValueError, match="protobuf"):
        read(b"\xff\xff\xff\xff")


def test_replies_that_never_arrive_hold_up_no_others(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many announce an answer and send none of it; one does as it should, after them."""
    hostile = [front.enrol(f"hostile{number}") for number in range(12)]
    honest = front.enrol("honest")
    for device in (*hostile, honest):
        assert device.activate().is_success
    wait = 8.0
    monkeypatch.setattr(link, "UPLOAD_WAIT_SECONDS", wait)
    came: list[tuple[int, bool, float]] = []

    def ask() -> None:
        nodes = [device.node.node_id for device in (*hostile, honest)]
        for reply in front.fleet.ask(b"plan", "train", 250, bytes(1000), nodes):
            came.append((reply.node, reply.data is not None, time.monotonic()))

    with in_thread(ask):
        for device in hostile:
            order = device.await_order()
            device.announce(device.make_reply(order, b"never")).raise_for_status()
        announced = time.monotonic()
        honest.answer(honest.await_order(), b"an answer")
    assert (came[0][:2]) == (honest.node.node_id, True)
    assert {node for node, good, _ in came if not good} == {device.node.node_id for device in hostile}
    assert came[-1][2] - announced < len(hostile) / 2 * wait, "they were waited for together"


def test_a_reply_counts_as_the_one_that_its_head_says(front: Front, devices: list[EnrolledDevice]) -> None:
    """What is inside a message, its sender alone has written."""
    liar, victim = devices
    came: list[tuple[int, bytes]] = []

    def ask() -> None:
        asked = front.fleet.ask(b"plan", "train", 30, bytes(1000), [liar.node.node_id, victim.node.node_id])
        came.extend((reply.node, bytes(reply.data or b"")) for reply in asked)

    with in_thread(ask):
        mine, others = liar.await_order(), victim.await_order()
        forged = liar.make_reply(others, b"forged")
        with no_object_id_recompute():
            head = message_to_proto(remove_content_from_message(forged))
            head.metadata.reply_to_message_id = mine.messages_list[0].metadata.message_id
            request = PushMessagesRequest(
                node=liar.node,
                messages_list=[head],
                message_object_trees=[get_object_tree(forged)],
                clientapp_runtime_list=[0.1],
            )
        announced = liar.say("push-messages", request).raise_for_status()
        for part in liar.upload(forged, announced):
            part.raise_for_status()
        victim.answer(others, b"genuine")
    assert dict(came)[victim.node.node_id] == b"genuine"
    assert dict(came)[liar.node.node_id] == b"forged", "it is the liar's own answer, for what it is worth"


def parts_in(message: Message) -> dict[str, bytes]:
    with no_object_id_recompute():
        return {name: part.deflate() for name, part in get_all_nested_objects(message).items()}


def made_message(data: bytes) -> Message:
    content = RecordDict({"a": ArrayRecord({"b": Array(np.frombuffer(data, np.uint8))})})
    return Message(content, dst_node_id=1, message_type="train")


def test_a_part_that_is_listed_often_is_fetched_once() -> None:
    message = made_message(b"x" * 1000)
    tree = get_object_tree(message)
    for _ in range(10_000):
        tree.children.add(object_id=tree.children[0].object_id)
    parts = parts_in(message)
    fetched: list[str] = []

    def fetch(name: str) -> bytes:
        fetched.append(name)
        return parts[name]

    announced = Announced(message.object_id, "what was asked", parts_of(tree), 0)
    whole = assemble(announced, fetch, 1 << 20)
    assert sorted(fetched) == sorted(parts)
    assert whole.metadata.reply_to_message_id == "what was asked"


def test_a_reply_in_too_many_parts_is_not_fetched() -> None:
    def fetch(name: str) -> bytes:
        raise AssertionError(name)

    with pytest.raises(ValueError, match="parts"):
        assemble(Announced("0", "", [str(number) for number in range(66)], 0), fetch, 5 << 20)


def test_an_array_that_lists_a_piece_a_million_times_is_not_unfolded() -> None:
    message = made_message(b"x" * 1000)
    parts = parts_in(message)
    (name,) = (name for name, part in parts.items() if part.startswith(b"Array "))
    head, _, body = parts[name].partition(b"\x00")
    many = json.loads(body) | {"arraychunk_ids": [0] * 1_000_000}
    written = json.dumps(many).encode()
    kind, children, _ = head.split(b" ")
    parts[name] = b" ".join((kind, children, str(len(written)).encode())) + b"\x00" + written
    announced = Announced(message.object_id, "", list(parts), 0)
    with pytest.raises(ValueError, match="larger than"):
        assemble(announced, parts.__getitem__, 10 << 20)


def test_the_part_that_was_missing_is_asked_for_first() -> None:
    parts = parts_in(made_message(b"x" * 1000))
    last = list(parts)[-1]
    announced = Announced("0", "", list(parts), 0)

    def fetch(name: str) -> bytes:
        if name == last:
            raise ObjectUnavailableError(name)
        return parts[name]

    with pytest.raises(ObjectUnavailableError):
        assemble(announced, fetch, 1 << 20)
    assert announced.parts == [last, *list(parts)[:-1]]
