"""A device's place in a Flower fleet: the only file of the device that knows Flower's internals.

Stock SuperNodes start a Python process per message and execute code that the coordinator sends. This link
speaks the same Fleet API from one process and hands each message to a `ClientApp` installed with the device.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Context, Error, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
    RegisterNodeFleetRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 10
"""What Flower accepts at least; a silent device counts as gone after two of these."""

BUSY_POLL_SECONDS, IDLE_POLL_SECONDS, BUSY_FOR_SECONDS = 0.05, 1.0, 10.0
"""Rounds come one after the other, so a device asks often after a message and rarely when nothing goes on."""

OBJECT_WAIT_SECONDS = 60.0

LARGEST_MESSAGE = 256 << 20
"""Bytes of all parts of a message; as much as the largest file of a release."""


class LinkLostError(Exception):
    """The coordinator is away or no longer knows this node."""


class FleetLink:
    """One connection to the coordinator's Fleet API, from registration to deactivation.

    Args:
        address: "host:port".
        ca: PEM of the certificate the coordinator is pinned to; None for plain HTTP on loopback.
    """

    def __init__(self, address: str, ca: bytes | None) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        self._public_key = public_key_to_bytes(key.public_key())
        self._client = FleetHttpClient.from_server_address(
            address,
            ca is None,
            ca,
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="SuperNode"),
                NodeAuthHttpInterceptor(key, key.public_key()),
            ],
        )
        self._node = Node()
        self._closed = threading.Event()
        self._lost = threading.Event()
        self._heartbeat = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._known_objects: dict[str, bytes] = {}
        self.bytes_up = 0
        self.bytes_down = 0

    def __enter__(self) -> Self:
        self._client.__enter__()
        try:
            self._client.RegisterNode(RegisterNodeFleetRequest(public_key=self._public_key))
            activated = self._client.ActivateNode(
                ActivateNodeRequest(public_key=self._public_key, heartbeat_interval=HEARTBEAT_SECONDS)
            )
        except httpx.HTTPError as error:
            self._client.__exit__(None, None, None)
            raise LinkLostError(str(error)) from error
        self._node = Node(node_id=activated.node_id)
        self._heartbeat.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        try:
            self._client.DeactivateNode(DeactivateNodeRequest(node_id=self._node.node_id))
        except httpx.HTTPError:
            log.debug("the coordinator was not told that this device leaves")
        self._client.__exit__(None, None, None)

    @property
    def node_id(self) -> int:
        return int(self._node.node_id)

    def receive(self) -> Message | None:
        """The next message for this device, whole, or None.

        Raises:
            LinkLostError: the coordinator is away, has forgotten this node or sends too much.
        """
        if self._lost.is_set():
            raise LinkLostError("the coordinator no longer knows this device")
        try:
            pulled = self._client.PullMessages(PullMessagesRequest(node=self._node))
            if not pulled.messages_list:
                return None
            head = message_from_proto(pulled.messages_list[0])
            run_id, message_id = head.metadata.run_id, head.metadata.message_id
            wanted = [tree.object_id for tree in iterate_object_tree(pulled.message_object_trees[0])]
            objects = self._pull_all(run_id, wanted)
            self._client.ConfirmMessageReceived(
                ConfirmMessageReceivedRequest(node=self._node, run_id=run_id, message_object_id=message_id)
            )
        except httpx.HTTPError as error:
            raise LinkLostError(str(error)) from error
        # Objects are named by their SHA-256, so weights sent twice in a row need not travel twice.
        self._known_objects = dict(objects)
        message = inflate_object_from_contents(message_id, objects)
        if not isinstance(message, Message):
            raise LinkLostError("the coordinator sent something that is not a message")
        message.metadata.__dict__["_message_id"] = message_id
        return message

    def send(self, reply: Message, seconds: float) -> None:
        """Upload `reply`, which took `seconds` to make.

        Raises:
            LinkLostError: the coordinator is away or the run has ended.
        """
        reply.metadata.__dict__["_message_id"] = reply.object_id
        run_id = reply.metadata.run_id
        try:
            with no_object_id_recompute():
                tree = get_object_tree(reply)
                objects = get_all_nested_objects(reply)
                head = remove_content_from_message(reply) if reply.has_content() else reply
                pushed = self._client.PushMessages(
                    PushMessagesRequest(
                        node=self._node,
                        messages_list=[message_to_proto(head)],
                        message_object_trees=[tree],
                        clientapp_runtime_list=[seconds],
                    )
                )
                for name in pushed.objects_to_push:
                    content = objects[name].deflate()
                    self._client.PushObject(
                        PushObjectRequest(
                            node=self._node,
                            run_id=run_id,
                            session_id=pushed.session_id,
                            object_id=name,
                            object_content=content,
                        )
                    )
                    self.bytes_up += len(content)
        except httpx.HTTPError as error:
            raise LinkLostError(str(error)) from error

    def _pull_all(self, run_id: int, names: list[str]) -> dict[str, bytes]:
        objects: dict[str, bytes] = {}
        room = LARGEST_MESSAGE
        for name in names:
            objects[name] = self._pull(run_id, name)
            room -= len(objects[name])
            if room < 0:
                raise LinkLostError(f"the coordinator sent a message of more than {LARGEST_MESSAGE >> 20} MB")
        return objects

    def _pull(self, run_id: int, name: str) -> bytes:
        if name in self._known_objects:
            return self._known_objects[name]
        deadline = time.monotonic() + OBJECT_WAIT_SECONDS
        while time.monotonic() < deadline:
            pulled = self._client.PullObject(
                PullObjectRequest(node=self._node, run_id=run_id, object_id=name)
            )
            if not pulled.object_found:
                break
            if pulled.object_available:
                self.bytes_down += len(pulled.object_content)
                return bytes(pulled.object_content)
            # The message is announced before its parts have all arrived.
            self._closed.wait(0.02)
        raise LinkLostError(f"a part of the message never arrived ({name[:12]})")

    def _beat(self) -> None:
        try:
            while not self._closed.wait(HEARTBEAT_SECONDS / 2.5) and self._is_known():
                pass
        finally:
            # Without a heart this node is as good as forgotten, whatever stopped it.
            self._lost.set()

    def _is_known(self) -> bool:
        try:
            answer = self._client.SendNodeHeartbeat(
                SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=HEARTBEAT_SECONDS)
            )
        except httpx.TransportError:
            return True
        except httpx.HTTPStatusError as error:
            return error.response.status_code >= 500
        return bool(answer.success)


def answer_messages(link: FleetLink, app: ClientApp, stop: threading.Event) -> None:
    """Hand every message to `app` and send back its answer, until `stop` is set.

    Raises:
        LinkLostError: the connection is gone; make a new one.
    """
    busy_until = 0.0
    while not stop.is_set():
        message = link.receive()
        if message is None:
            stop.wait(BUSY_POLL_SECONDS if time.monotonic() < busy_until else IDLE_POLL_SECONDS)
            continue
        started = time.monotonic()
        reply = _answer(app, message, link.node_id)
        link.send(reply, time.monotonic() - started)
        busy_until = time.monotonic() + BUSY_FOR_SECONDS


def stay_linked(
    address: str,
    ca: bytes | None,
    app: ClientApp,
    stop: threading.Event,
    on_change: Callable[[FleetLink | None], None],
) -> None:
    """Keep a link to the coordinator, whatever happens to it, until `stop` is set.

    Args:
        on_change: told the link when it is made and None when it is lost.
    """
    tries = 0
    while not stop.is_set():
        try:
            with FleetLink(address, ca) as link:
                tries = 0
                on_change(link)
                log.info("linked to %s", address)
                answer_messages(link, app, stop)
        except LinkLostError as error:
            on_change(None)
            log.warning("no link to %s: %s", address, error)
            stop.wait(random.uniform(0.5, 1.0) * min(10.0, 0.5 * 2**tries))  # noqa: S311 - jitter
            tries = min(tries + 1, 8)


def _answer(app: ClientApp, message: Message, node_id: int) -> Message:
    # Flower stamps replies with this process-wide identity.
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, message.metadata.run_id, node_id
    context = Context(
        run_id=message.metadata.run_id, node_id=node_id, node_config={}, state=RecordDict(), run_config={}
    )
    try:
        return app(message=message, context=context)
    except Exception as error:
        log.exception("a message could not be answered")
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, type(error).__name__), reply_to=message)
