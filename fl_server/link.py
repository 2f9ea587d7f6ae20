"""The coordinator's use of Flower's internals: the SuperLink as an app, and a Grid that does not wait.

Flower's state is transport. It is kept in memory and may be lost; what must last is in the coordinator's own
store, from which a new run starts.
"""

from __future__ import annotations

import hashlib
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator

import httpx
from fastapi import FastAPI
from flwr.app import Error, Message, Metadata
from flwr.app.message.message import make_message
from flwr.cli.build import build_fab_from_files
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID, ErrorCode
from flwr.common.serde import fab_to_proto, run_from_proto
from flwr.proto.control_pb2 import StartRunRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PullAppMessagesRequest,
    PullTaskInputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.auth.typing import AccountInfo
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME
from flwr.supercore.fab import Fab
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import (
    inflate_object_from_contents,
    pull_objects,
)
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.grid import HttpGrid
from flwr.superlink.main import create_app
from flwr.superlink.servicer.control import control_handlers

log = logging.getLogger(__name__)

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


def make_superlink(secret: bytes) -> FastAPI:
    """Flower's SuperLink as an ASGI app that starts no processes and keeps its state in memory.

    Args:
        secret: whoever knows it may act as the run's server app.
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
        enable_supernode_auth=False,
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
    return create_app(config, SuperLinkLifespan)


def start_run(superlink: FastAPI) -> None:
    """Begin the one Flower run in `superlink`, for a `CoordinatorGrid` to claim."""
    fab, _ = build_fab_from_files({"pyproject.toml": _RUN_PROJECT.encode()})
    request = StartRunRequest(fab=fab_to_proto(Fab(hashlib.sha256(fab).hexdigest(), fab, {})))
    account = AccountInfo(flwr_aid=NOOP_FLWR_AID, account_name=NOOP_ACCOUNT_NAME)
    state = superlink.state.linkstate_factory.state()
    control_handlers.start_run(request, account, state, None)


class CoordinatorGrid(HttpGrid):
    """Flower's Grid, giving replies one at a time and without its fixed waits.

    Only one reply is in memory at once, so a round needs memory for one update however many devices answer.
    """

    def __init__(self, address: str, token: str) -> None:
        super().__init__(address, insecure=True, token=token)
        # Fail instead of waiting forever for a SuperLink that has died: the coordinator starts a new one.
        self._retry_invoker.max_time = TRANSPORT_RETRY_SECONDS
        # When its run is over, as after a suspended machine wakes, Flower would interrupt the whole process.
        self._retry_invoker.should_giveup = _is_refusal
        self._heartbeat = HeartbeatSender(self._beat)
        self.largest_reply = 64 << 20
        self._deadline = math.inf

    @classmethod
    def claim(cls, address: str, secret: bytes) -> CoordinatorGrid:
        """Become the server app of the one pending run at `address`."""
        executor = RuntimeHttpClient.from_server_address(
            address,
            True,
            None,
            interceptors=[
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
        grid = cls(address, claimed.token)
        given = grid._runtime_client.PullTaskInput(PullTaskInputRequest())
        TaskIdentity.task_id, TaskIdentity.run_id = given.task_id, given.run.run_id
        TaskIdentity.node_id = given.context.node_id
        grid.set_run(run_from_proto(given.run))
        grid._heartbeat.start()
        return grid

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        """Replies that have arrived to the messages in `message_ids`, each fetched when it is asked for."""
        client, run_id = self._runtime_client, self.run.run_id
        fetch = make_pull_object_fn_protobuf(client.PullObject, self.node, run_id)
        pulled = client.PullMessages(PullAppMessagesRequest(message_ids=message_ids))
        for head, tree in zip(pulled.messages_list, pulled.message_object_trees, strict=True):
            message_id, reply_to = head.metadata.message_id, head.metadata.reply_to_message_id
            try:
                objects = pull_objects(
                    [part.object_id for part in iterate_object_tree(tree)],
                    _limited(fetch, self.largest_reply),
                    max_time=min(UPLOAD_WAIT_SECONDS, max(0.0, self._deadline - time.monotonic())),
                    initial_backoff=0.02,
                    backoff_cap=0.25,
                )
                message = inflate_object_from_contents(message_id, objects)
            except httpx.HTTPError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever a device put into its message
                log.warning("a reply could not be read: %s", error)
                yield _unavailable(run_id, reply_to)
                continue
            client.ConfirmMessageReceived(
                ConfirmMessageReceivedRequest(node=self.node, run_id=run_id, message_object_id=message_id)
            )
            if isinstance(message, Message):
                message.metadata.__dict__["_message_id"] = message_id
                yield message
            else:
                yield _unavailable(run_id, reply_to)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Push `messages` and yield replies as they arrive, for `timeout` seconds at most."""
        self._deadline = math.inf if timeout is None else time.monotonic() + timeout
        waiting = set(self.push_messages(messages))
        while waiting and time.monotonic() < self._deadline:
            before = len(waiting)
            for reply in self.pull_messages(waiting):
                waiting.discard(reply.metadata.reply_to_message_id)
                yield reply
            if len(waiting) == before:
                time.sleep(0.03)

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


def _limited(fetch: Callable[[str], bytes], limit: int) -> Callable[[str], bytes]:
    """`fetch` for the parts of one reply, given up when they are larger together than any honest one."""
    lock, left = threading.Lock(), limit

    def fetch_within(name: str) -> bytes:
        nonlocal left
        part = fetch(name)
        with lock:
            left -= len(part)
        if left < 0:
            raise ValueError(f"the reply is larger than {limit} bytes")
        return part

    return fetch_within


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
