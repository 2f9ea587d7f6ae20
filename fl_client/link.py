"""A device's place in a Flower fleet: the only file of the device that knows Flower's internals.

Stock SuperNodes start a Python process per message and execute code that the coordinator sends. This link
speaks the same Fleet API from one process and hands each message to a `ClientApp` installed with the device.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import httpx
from flwr.app import Context, Error, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.clientapp import ClientApp
from flwr.common.constant import TIMESTAMP_HEADER, ErrorCode
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
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from flwr.supercore.protobuf.client import ProtobufRequestContext
from flwr.supercore.runtime_version_compatibility import RuntimeVersionMetadata
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.fleet_http_client import FleetHttpClient

from common.errors import FedAudioError
from fl_client.connection import TIMEOUT_SECONDS, Access, RefusedError, UnreachableError, refusal_of

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 10
"""What Flower accepts at least; a silent device counts as gone after two of these."""

BUSY_POLL_SECONDS, IDLE_POLL_SECONDS, BUSY_FOR_SECONDS = 0.05, 1.0, 10.0
"""Rounds come one after the other, so a device asks often after a message and rarely when nothing goes on."""

OBJECT_WAIT_SECONDS = 60.0

LARGEST_PART, LARGEST_MESSAGE = 16 << 20, 256 << 20
"""Bytes of one answer, and of all parts of a message; Flower cuts arrays into parts of 5 MB."""

LONGEST_PAUSE_SECONDS, REFUSED_PAUSE_SECONDS = 10.0, 60.0
"""Between two tries when the coordinator is away, and when it refuses or something must be mended first."""

RUNTIME_VERSION = dict(RuntimeVersionMetadata.from_local_component("SuperNode").as_metadata())
"""Flower's headers; its own interceptor ends the process when the other side says so."""


class LinkLostError(Exception):
    """The coordinator is away or no longer knows this node."""


class FleetClient(FleetHttpClient):
    """Flower's client for the Fleet API: signs with the coordinator's time, and reads no endless answers."""

    def __init__(self, access: Access) -> None:
        scheme, verify = ("http", False) if access.context is None else ("https", access.context)
        super().__init__(f"{scheme}://{access.server}", verify=verify)
        self._client.close()
        self._client = httpx.Client(
            verify=verify, timeout=TIMEOUT_SECONDS, headers={"accept-encoding": "identity"}, trust_env=False
        )
        self._access = access
        self._public = b64encode(public_key_to_bytes(access.key.public_key())).decode("ascii")

    def _send(self, context: ProtobufRequestContext, *, stream: bool = False) -> httpx.Response:
        """As in Flower, within bounds. Flower's fleet calls do not stream."""
        moment = self._access.clock.now().isoformat()
        context.request.headers.update(
            RUNTIME_VERSION
            | {
                FLEET_HTTP_PUBLIC_KEY_HEADER: self._public,
                TIMESTAMP_HEADER: moment,
                FLEET_HTTP_SIGNATURE_HEADER: b64encode(
                    sign_message(self._access.key, moment.encode("ascii"))
                ).decode("ascii"),
            }
        )
        response = self._client.send(context.request, stream=True)
        data = bytearray()
        try:
            for part in response.iter_raw():
                data += part
                if len(data) > LARGEST_PART:
                    raise LinkLostError(f"the coordinator sent a part of more than {LARGEST_PART >> 20} MB")
        finally:
            response.close()
        return httpx.Response(response.status_code, content=bytes(data), request=context.request)


class FleetLink:
    """One connection to the coordinator's Fleet API, from activation to deactivation."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._public_key = public_key_to_bytes(access.key.public_key())
        self._client = FleetClient(access)
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
            with _errors_in_words():
                self._node = Node(node_id=self._activate())
        except (LinkLostError, RefusedError):
            self._client.__exit__(None, None, None)
            raise
        self._heartbeat.start()
        return self

    def _activate(self) -> int:
        if self._access.context is None:
            self._client.RegisterNode(RegisterNodeFleetRequest(public_key=self._public_key))
        request = ActivateNodeRequest(public_key=self._public_key, heartbeat_interval=HEARTBEAT_SECONDS)
        return int(self._client.ActivateNode(request).node_id)

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
        with _errors_in_words():
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
            message = inflate_object_from_contents(message_id, objects)
        if not isinstance(message, Message):
            raise LinkLostError("the coordinator sent something that is not a message")
        # Objects are named by their SHA-256, so weights sent twice in a row need not travel twice.
        self._known_objects = dict(objects)
        message.metadata.__dict__["_message_id"] = message_id
        return message

    def send(self, reply: Message, seconds: float) -> None:
        """Upload `reply`, which took `seconds` to make.

        Raises:
            LinkLostError: the coordinator is away or the run has ended.
        """
        reply.metadata.__dict__["_message_id"] = reply.object_id
        run_id = reply.metadata.run_id
        with _errors_in_words(), no_object_id_recompute():
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


@contextmanager
def _errors_in_words() -> Iterator[None]:
    """Whatever the coordinator does or sends, the link is lost, or refused, and nothing worse."""
    try:
        yield
    except (LinkLostError, FedAudioError):
        raise
    except httpx.HTTPStatusError as error:
        refused = refusal_of(error.response.content) if error.response.status_code in (401, 403) else None
        raise refused or LinkLostError(str(error)) from error
    except httpx.HTTPError as error:
        raise LinkLostError(str(error) or type(error).__name__) from error
    except Exception as error:
        log.debug("unreadable", exc_info=True)
        raise LinkLostError(f"the coordinator sent something unreadable ({type(error).__name__})") from error


def answer_messages(
    link: FleetLink, app: ClientApp, stop: threading.Event, reload: threading.Event | None = None
) -> None:
    """Hand every message to `app` and send back its answer, until `stop` or `reload` is set.

    Raises:
        LinkLostError: the connection is gone; make a new one.
        RefusedError: FA-4014, the coordinator does not want this device.
    """
    busy_until = 0.0
    while not stop.is_set() and not (reload and reload.is_set()):
        message = link.receive()
        if message is None:
            stop.wait(BUSY_POLL_SECONDS if time.monotonic() < busy_until else IDLE_POLL_SECONDS)
            continue
        started = time.monotonic()
        reply = _answer(app, message, link.node_id)
        link.send(reply, time.monotonic() - started)
        busy_until = time.monotonic() + BUSY_FOR_SECONDS


def stay_linked(
    access: Callable[[], Access],
    app: ClientApp,
    stop: threading.Event,
    on_change: Callable[[FleetLink | None], None],
    *,
    reload: threading.Event | None = None,
    on_refusal: Callable[[FedAudioError], None] = lambda refused: None,
) -> None:
    """Keep a link to the coordinator, whatever happens to it, until `stop` is set.

    Args:
        access: asked before each connection; it may raise any `FedAudioError`, and is asked again later then.
        on_change: told the link when it is made and None when it is lost.
        reload: set when `access` would say something else than before; the link is then made anew.
        on_refusal: told why there is no link when waiting alone will not mend it: the coordinator does not
            want this device, a clock is wrong, somebody else answers.
    """
    tries = 0
    while not stop.is_set():
        try:
            if reload:
                reload.clear()
            way_in = access()
            with FleetLink(way_in) as link:
                tries = 0
                on_change(link)
                log.info("linked to %s", way_in.server)
                answer_messages(link, app, stop, reload)
        except (LinkLostError, FedAudioError) as error:
            on_change(None)
            log.warning("no link: %s", error)
            away = isinstance(error, LinkLostError | UnreachableError)
            if isinstance(error, FedAudioError) and not away:
                on_refusal(error)
            longest = LONGEST_PAUSE_SECONDS if away else REFUSED_PAUSE_SECONDS
            stop.wait(random.uniform(0.5, 1.0) * min(longest, 0.5 * 2**tries))  # noqa: S311 - jitter
            tries = min(tries + 1, 8)


def _answer(app: ClientApp, message: Message, node_id: int) -> Message:
    # Flower stamps replies with this process-wide identity.
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, message.metadata.run_id, node_id
    context = Context(
        run_id=message.metadata.run_id, node_id=node_id, node_config={}, state=RecordDict(), run_config={}
    )
    try:
        return app(message=message, context=context)
    except FedAudioError as error:
        log.error("a message could not be answered: %s", error)
        reason = error.code
    except Exception as error:
        log.exception("a message could not be answered")
        reason = type(error).__name__
    with _errors_in_words():  # no reply can be made to a message whose head is nonsense
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)
