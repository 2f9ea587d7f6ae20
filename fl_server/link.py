"""The coordinator's use of Flower's internals: the SuperLink as an app, what devices say to it, and a Grid
that does not wait.

Flower's state is transport. It is kept in memory and may be lost; what must last is in the coordinator's own
store, from which a new run starts.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import httpx
from fastapi import FastAPI
from flwr.app import Error, Message, Metadata
from flwr.app.message.message import make_message
from flwr.cli.build import build_fab_from_files
from flwr.common.constant import (
    NOOP_ACCOUNT_NAME,
    NOOP_FLWR_AID,
    SUPERLINK_NODE_ID,
    SYSTEM_TIME_TOLERANCE,
    TIMESTAMP_HEADER,
    TIMESTAMP_TOLERANCE,
    ErrorCode,
)
from flwr.common.serde import fab_to_proto, run_from_proto
from flwr.proto.control_pb2 import StartRunRequest
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesResponse, PushMessagesRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PullAppMessagesRequest,
    PullTaskInputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.auth.typing import AccountInfo
from flwr.supercore.constant import (
    FLEET_HTTP_PUBLIC_KEY_HEADER,
    FLEET_HTTP_SIGNATURE_HEADER,
    FLWR_IN_MEMORY_DB_NAME,
)
from flwr.supercore.fab import Fab
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import ObjectUnavailableError
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supercore.retry import RetryInvoker
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.grid import HttpGrid
from flwr.superlink.main import create_app
from flwr.superlink.routers.fleet.node_auth import NodeAuthMiddleware
from flwr.superlink.servicer.control import control_handlers
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from starlette.middleware import Middleware

from fl_server.replies import Announced, assemble, parts_of

log = logging.getLogger(__name__)

Parsed = TypeVar("Parsed")

_RUN_PROJECT = """[project]
name = "fedaudio"
version = "1.0.0"
description = "Names the run; holds no code, and devices never fetch it."
license = "Apache-2.0"
dependencies = ["flwr>=1.41.0"]
[tool.flwr.app]
publisher = "fedaudio"
[tool.flwr.app.components]
serverapp = "fl_server.app:unused"
clientapp = "fl_client.app:unused"
[tool.flwr.app.config]
"""

UPLOAD_WAIT_SECONDS = 10.0
"""A reply is announced before its parts arrive; a device that dies in between holds a round up this long."""

TRANSPORT_RETRY_SECONDS = 3.0
"""The front is a child process on this machine: what is refused for so long does not come back."""


KEY_HEADER, TIME_HEADER, SIGNATURE_HEADER = (
    name.lower().encode()
    for name in (FLEET_HTTP_PUBLIC_KEY_HEADER, TIMESTAMP_HEADER, FLEET_HTTP_SIGNATURE_HEADER)
)
"""What a node authenticates with: its key (PEM) and its ECDSA signature of a time (ISO 8601), in base64."""

YOUNGEST_SECONDS, OLDEST_SECONDS = -SYSTEM_TIME_TOLERANCE, TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE
"""Between which ages Flower takes such a time for now."""


def make_superlink(secret: bytes, *, node_auth: bool) -> FastAPI:
    """Flower's SuperLink as an ASGI app that starts no processes and keeps its state in memory.

    Args:
        secret: whoever knows it may act as the run's server app.
        node_auth: whether nodes must sign their requests, with keys that `Nodes` has admitted.
    """
    config = SuperLinkLifespanConfig(
        control_address="",
        health_server_address=None,
        host="127.0.0.1",
        port=0,
        insecure=True,
        certificates=None,
        superexec_auth_secret=secret,
        authn_plugin=NoOpControlAuthnPlugin(),
        event_log_plugin=None,
        fleet_event_log_plugin=None,
        enable_event_log=False,
        artifact_provider=None,
        enable_supernode_auth=node_auth,
        fleet_api_type="grpc-rere",
        fleet_api_address=None,
        simulation=False,
        ssl_ca_certfile=None,
        ssl_certfile=None,
        ssl_keyfile=None,
        database=FLWR_IN_MEMORY_DB_NAME,
        isolation="process",
        runtime_dependency_install=False,
    )
    superlink = create_app(config, SuperLinkLifespan)
    if not node_auth:
        # The setting alone opens registration; Flower checks signatures all the same.
        checks = Middleware(NodeAuthMiddleware)
        superlink.user_middleware = [each for each in superlink.user_middleware if each.cls != checks.cls]
    return superlink


def start_run(superlink: FastAPI) -> None:
    """Begin the one Flower run in `superlink`, for a `CoordinatorGrid` to claim."""
    fab, _ = build_fab_from_files({"pyproject.toml": _RUN_PROJECT.encode()})
    request = StartRunRequest(fab=fab_to_proto(Fab(hashlib.sha256(fab).hexdigest(), fab, {})))
    account = AccountInfo(flwr_aid=NOOP_FLWR_AID, account_name=NOOP_ACCOUNT_NAME)
    state = superlink.state.linkstate_factory.state()
    control_handlers.start_run(request, account, state, None)


class Nodes:
    """The nodes of devices that are linked. Nobody else makes any: registration is closed."""

    def __init__(self, superlink: FastAPI) -> None:
        self._state = superlink.state.linkstate_factory.state()

    def admit(self, key: bytes, device: str) -> None:
        """Let the node with the public key `key` (PEM) be activated, under the name `device`.

        It is a new node each time: what the one before it was asked is void, and nobody waits for its answer.
        """
        with self._state.lock:
            self.dismiss(key)
            self._state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, key, 0, name=device)

    def dismiss(self, key: bytes) -> None:
        """Forget the node with this key. Flower's own way would never let the key come back."""
        with self._state.lock:
            node = self._state.node_public_key_to_node_id.pop(key, None)
            if node is not None:
                del self._state.nodes[node]
                self._state.owner_to_node_ids[NOOP_FLWR_AID].discard(node)

    def number(self, key: bytes) -> int | None:
        """The id of the node with this key."""
        node: int | None = self._state.get_node_id_by_public_key(key)
        return node


@dataclass(frozen=True)
class ReplyHead:
    """What a device says its reply is: from `sender`, pushed by `node`, to the message `reply_to`."""

    node: int
    sender: int
    reply_to: str


def read_key(body: bytes) -> bytes:
    """The public key (PEM) in a request to activate (or register) a node.

    Raises:
        ValueError: it is malformed; as in the functions below.
    """
    return bytes(_parse(ActivateNodeRequest, body).public_key)


def read_reply(body: bytes) -> ReplyHead:
    """The head of the one reply in a request to push messages."""
    request = _parse(PushMessagesRequest, body)
    if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
        raise ValueError("it holds not exactly one message")
    metadata = request.messages_list[0].metadata
    if metadata.dst_node_id != SUPERLINK_NODE_ID:
        raise ValueError("it is not for the coordinator")
    return ReplyHead(request.node.node_id, metadata.src_node_id, metadata.reply_to_message_id)


def read_wanted(body: bytes) -> str:
    """The id of the object that is asked for."""
    return str(_parse(PullObjectRequest, body).object_id)


def read_confirmed(body: bytes) -> str:
    """The id of the message that has been received."""
    return str(_parse(ConfirmMessageReceivedRequest, body).message_object_id)


def read_orders(body: bytes) -> list[tuple[str, frozenset[str]]]:
    """The messages that a device is given, each with the ids of the objects it consists of."""
    pulled = _parse(PullMessagesResponse, body)
    return [
        (head.metadata.message_id, frozenset(part.object_id for part in iterate_object_tree(tree)))
        for head, tree in zip(pulled.messages_list, pulled.message_object_trees, strict=True)
    ]


def _parse(kind: type[Parsed], body: bytes) -> Parsed:
    message = kind()
    try:
        message.ParseFromString(body)  # type: ignore[attr-defined]
    except DecodeError as error:
        raise ValueError("it is not the protobuf message it should be") from error
    return message


class _SocketClient(RuntimeHttpClient):
    """Flower's client for its Runtime API, over a Unix socket."""

    def __init__(
        self,
        path: str,
        interceptors: Sequence[ProtobufClientInterceptor],
        retry_invoker: RetryInvoker | None = None,
    ) -> None:
        super().__init__(
            "http://coordinator", interceptors=interceptors, verify=False, retry_invoker=retry_invoker
        )
        self._client.close()
        self._client = httpx.Client(transport=httpx.HTTPTransport(uds=path), timeout=30.0)


class CoordinatorGrid(HttpGrid):
    """Flower's Grid, giving replies one at a time and without its fixed waits.

    Only one reply is in memory at once, so a round needs memory for one update however many devices answer.

    Args:
        path: of the front's Unix socket.
        token: that Flower gave to the server app; see `claim`.
    """

    def __init__(self, path: str, token: str) -> None:
        super().__init__(path, insecure=True, token=token)
        # Fail instead of waiting forever for a SuperLink that has died: the coordinator starts a new one.
        self._retry_invoker.max_time = TRANSPORT_RETRY_SECONDS
        # When its run is over, as after a suspended machine wakes, Flower would interrupt the whole process.
        self._retry_invoker.should_giveup = _is_refusal
        self._heartbeat = HeartbeatSender(self._beat)
        self.largest_reply = 64 << 20

    @classmethod
    def claim(cls, path: str, secret: bytes) -> CoordinatorGrid:
        """Become the server app of the one pending run of the SuperLink behind the Unix socket `path`."""
        executor = _SocketClient(
            path,
            [
                RuntimeVersionHttpInterceptor(component_name="SuperExec"),
                SuperExecAuthHttpInterceptor(
                    master_secret=secret, protected_methods=frozenset({"/flwr.proto.Runtime/AcquireTask"})
                ),
            ],
        )
        try:
            claimed = executor.AcquireTask(AcquireTaskRequest(supported_task_types=["flwr-serverapp"]))
        finally:
            executor.close()
        grid = cls(path, claimed.token)
        given = grid._runtime_client.PullTaskInput(PullTaskInputRequest())
        TaskIdentity.task_id, TaskIdentity.run_id = given.task_id, given.run.run_id
        TaskIdentity.node_id = given.context.node_id
        grid.set_run(run_from_proto(given.run))
        grid._heartbeat.start()
        return grid

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Push `messages` and yield replies as they arrive, for `timeout` seconds at most.

        A reply that has arrived whole is not held up by those that have not, however many they are.
        """
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        waiting, announced = set(self.push_messages(messages)), dict[str, Announced]()
        while waiting and time.monotonic() < deadline:
            announced |= self._announced(waiting - announced.keys())
            before = len(waiting)
            for asked in list(announced):
                reply = self._fetch(announced[asked])
                if reply is None:
                    continue
                del announced[asked]
                waiting.discard(asked)
                yield reply
                # Or it would stay in memory until the next one is there too.
                del reply
            if len(waiting) == before:
                time.sleep(0.03)

    def _announced(self, asked: set[str]) -> dict[str, Announced]:
        """Replies to messages in `asked` whose heads are there and were not before, by what they reply to."""
        if not asked:
            return {}
        pulled = self._runtime_client.PullMessages(PullAppMessagesRequest(message_ids=asked))
        until = time.monotonic() + UPLOAD_WAIT_SECONDS
        return {
            # The front has let nobody reply to what another was asked: this is the head that it has checked.
            head.metadata.reply_to_message_id: Announced(
                head.metadata.message_id, head.metadata.reply_to_message_id, parts_of(tree), until
            )
            for head, tree in zip(pulled.messages_list, pulled.message_object_trees, strict=True)
        }

    def _fetch(self, announced: Announced) -> Message | None:
        """The reply; None while parts of it are still to come, and an error when they never will."""
        client, run_id = self._runtime_client, self.run.run_id
        fetch = make_pull_object_fn_protobuf(client.PullObject, self.node, run_id)
        message = None
        try:
            message = assemble(announced, fetch, self.largest_reply)
        except httpx.HTTPError:
            raise
        except ObjectUnavailableError:
            if time.monotonic() < announced.until:
                return None
            log.warning("the parts of a reply never arrived")
        except Exception as error:  # noqa: BLE001 - whatever a device put into its message
            log.warning("a reply could not be read: %s", error)
        client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(node=self.node, run_id=run_id, message_object_id=announced.message)
        )
        return message or _unavailable(run_id, announced.reply_to)

    def _connect(self) -> None:
        self._client = _SocketClient(
            self._addr,
            [
                RuntimeVersionHttpInterceptor(component_name="flwr-serverapp"),
                RuntimeTokenHttpInterceptor(token=self._token),
            ],
            self._retry_invoker,
        )

    def close(self) -> None:
        if self._heartbeat.is_running:
            self._heartbeat.stop()
        super().close()

    def _beat(self) -> bool:
        try:
            self._runtime_client.SendTaskHeartbeat(SendTaskHeartbeatRequest())
        except httpx.HTTPError:
            return False
        return True


def _is_refusal(error: Exception) -> bool:
    """Whether the SuperLink answered, and asking it again is of no use."""
    return isinstance(error, httpx.HTTPStatusError) and error.response.is_client_error


def _unavailable(run_id: int, reply_to: str) -> Message:
    """What stands for a reply that cannot be had."""
    metadata = Metadata(
        run_id=run_id,
        message_id="",
        src_node_id=0,
        dst_node_id=0,
        reply_to_message_id=reply_to,
        group_id="",
        created_at=time.time(),
        ttl=0,
        message_type="system",
    )
    return make_message(
        metadata=metadata, error=Error(ErrorCode.MESSAGE_UNAVAILABLE, "its parts never arrived")
    )
