"""A real front in a child process, and devices that say to it exactly what a test wants them to say."""

from __future__ import annotations

import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Array, ArrayRecord, Message, Metadata, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.app.message.message import make_message
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    ActivateNodeResponse,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
    PushMessagesResponse,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    PullObjectRequest,
    PullObjectResponse,
    PushObjectRequest,
    PushObjectResponse,
)
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.task_identity import TaskIdentity

from common.protocol.release import FILES, WEIGHTS
from common.protocol.wire import ANSWER, BYTES_KEY
from common.security.keys import KeyFolder, KeyGroup
from common.task import Task
from fl_server.app import GridFleet, hold_fleet
from fl_server.authority import DeviceAuthority
from fl_server.enrolment import enrol
from fl_server.front_process import FrontProcess
from fl_server.home import CoordinatorHome
from fl_server.initialise import initialise
from fl_server.registry import Registry
from fl_server.releases import ALL, give, store_release
from fl_server.settings import DeviceRules, ServerSettings
from fl_server.tokens import make_token
from tests.fl_server.made_devices import MadeDevice

TASK = Task(labels=("yes", "no"))
HEARTBEAT_SECONDS = 600
"""Nothing beats here while a test works, and how long it works nobody knows."""

PASSPHRASE = b"open sesame"

Order = PullMessagesResponse


def point_to(releases: Path, version: int) -> None:
    """Give `version` to all devices from now on."""
    give(releases, [(version, ALL)])


@dataclass
class Front:
    """A running front with its coordinator's end of the fleet."""

    home: CoordinatorHome
    settings: ServerSettings
    process: FrontProcess
    fleet: GridFleet
    registry: Registry
    authority: DeviceAuthority
    insecure: bool = False

    @property
    def root(self) -> str:
        return self.home.root_certificate.read_text()

    @property
    def base_url(self) -> str:
        return f"http{'' if self.insecure else 's'}://127.0.0.1:{self.process.port}"

    def trust(self) -> ssl.SSLContext:
        """What a device that has pinned the root trusts."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=self.root)
        return context

    def web(self) -> httpx.Client:
        return httpx.Client(base_url=self.base_url, verify=self.trust(), trust_env=False, timeout=60)

    def release_weights(self, size: int, version: int = 0) -> None:
        """Make `version` the release in use, its weights of `size` bytes."""
        store_release(self.home.releases, version, dict.fromkeys(FILES, b"x") | {WEIGHTS: bytes(size)})
        point_to(self.home.releases, version)

    def invite(self, uses: int = 1) -> bytes:
        return make_token(self.registry, timedelta(hours=1), uses)

    def enrol(
        self, name: str, rules: DeviceRules | None = None, now: datetime | None = None
    ) -> EnrolledDevice:
        """A new device; it is enrolled beside the front, as an operator might do."""
        made = MadeDevice(name)
        enrolled = enrol(
            self.registry,
            self.authority,
            rules or self.settings.devices,
            made.request(make_token(self.registry, timedelta(hours=1), 1, now)),
            now,
        )
        return EnrolledDevice(self, made, enrolled.device, self.web())


@dataclass
class EnrolledDevice:
    """A device with everything needed to say the right thing or the wrong one."""

    front: Front
    made: MadeDevice
    id: str
    web: httpx.Client
    node: Node = field(default_factory=Node)

    def signed(
        self, moment: datetime | None = None, key: ec.EllipticCurvePrivateKey | None = None
    ) -> dict[str, str]:
        """Headers that prove, at `moment`, possession of `key`, by default the device's own."""
        timestamp = (moment or datetime.now(UTC)).isoformat()
        signature = (key or self.made.node).sign(timestamp.encode(), ec.ECDSA(hashes.SHA256()))
        return {
            "content-type": "application/protobuf",
            "flwr-public-key": b64encode(self.made.node_pem.encode()).decode(),
            "flwr-timestamp": timestamp,
            "flwr-signature": b64encode(signature).decode(),
        }

    def say(self, kind: str, request: Any, **headers: str) -> httpx.Response:
        """One request to the Fleet API."""
        body = request if isinstance(request, bytes) else request.SerializeToString()
        return self.web.post(f"/v1/fleet/{kind}", content=body, headers=self.signed() | headers)

    def activate(self) -> httpx.Response:
        """Link, and remember the node's number."""
        request = ActivateNodeRequest(
            public_key=self.made.node_pem.encode(), heartbeat_interval=HEARTBEAT_SECONDS
        )
        response = self.say("activate-node", request)
        if response.is_success:
            self.node = Node(node_id=ActivateNodeResponse.FromString(response.content).node_id)
        return response

    def deactivate(self) -> httpx.Response:
        return self.say("deactivate-node", DeactivateNodeRequest(node_id=self.node.node_id))

    def beat(self) -> httpx.Response:
        return self.say(
            "send-node-heartbeat",
            SendNodeHeartbeatRequest(node=self.node, heartbeat_interval=HEARTBEAT_SECONDS),
        )

    def pull(self) -> httpx.Response:
        return self.say("pull-messages", PullMessagesRequest(node=self.node))

    def await_order(self, seconds: float = 30.0) -> Order:
        """The next order, once it is there."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            order = Order.FromString(self.pull().raise_for_status().content)
            if order.messages_list:
                return order
            time.sleep(0.02)
        raise TimeoutError("no order")

    def fetch(self, order: Order, name: str) -> httpx.Response:
        run = order.messages_list[0].metadata.run_id
        return self.say("pull-object", PullObjectRequest(node=self.node, run_id=run, object_id=name))

    def fetch_all(self, order: Order) -> dict[str, bytes]:
        """Every part of what is ordered."""
        parts = {}
        for name in names_in(order):
            while True:
                part = PullObjectResponse.FromString(self.fetch(order, name).raise_for_status().content)
                assert part.object_found
                if part.object_available:
                    parts[name] = part.object_content
                    break
                time.sleep(0.02)
        return parts

    def confirm(self, order: Order) -> httpx.Response:
        metadata = order.messages_list[0].metadata
        return self.say(
            "confirm-message-received",
            ConfirmMessageReceivedRequest(
                node=self.node, run_id=metadata.run_id, message_object_id=metadata.message_id
            ),
        )

    def make_reply(self, order: Order, data: bytes, **changes: Any) -> Message:
        """A reply to `order` with `data` in it; `changes` are of its metadata."""
        asked, now = order.messages_list[0].metadata, time.time()
        facts: dict[str, Any] = {
            "run_id": asked.run_id,
            "message_id": "",
            "src_node_id": self.node.node_id,
            "dst_node_id": SUPERLINK_NODE_ID,
            "reply_to_message_id": asked.message_id,
            "group_id": "",
            "created_at": now,
            "ttl": asked.created_at + asked.ttl - now,
            "message_type": asked.message_type,
        }
        content = RecordDict({ANSWER: ArrayRecord({BYTES_KEY: Array(np.frombuffer(data, np.uint8))})})
        message = make_message(metadata=Metadata(**(facts | changes)), content=content)
        message.metadata.__dict__["_message_id"] = message.object_id
        return message

    def announce(self, reply: Message) -> httpx.Response:
        """Push the head of `reply`."""
        with no_object_id_recompute():
            request = PushMessagesRequest(
                node=self.node,
                messages_list=[message_to_proto(remove_content_from_message(reply))],
                message_object_trees=[get_object_tree(reply)],
                clientapp_runtime_list=[0.1],
            )
        return self.say("push-messages", request)

    def upload(self, reply: Message, announced: httpx.Response) -> list[httpx.Response]:
        """Push the parts of `reply` that the front wants."""
        wanted = PushMessagesResponse.FromString(announced.content)
        with no_object_id_recompute():
            objects = get_all_nested_objects(reply)
        return [
            self.say(
                "push-object",
                PushObjectRequest(
                    node=self.node,
                    run_id=reply.metadata.run_id,
                    session_id=wanted.session_id,
                    object_id=name,
                    object_content=objects[name].deflate(),
                ),
            )
            for name in wanted.objects_to_push
        ]

    def answer(self, order: Order, data: bytes) -> None:
        """Answer `order` with `data`, as an honest device does."""
        reply = self.make_reply(order, data)
        announced = self.announce(reply).raise_for_status()
        for uploaded in self.upload(reply, announced):
            assert PushObjectResponse.FromString(uploaded.raise_for_status().content).stored


def names_in(order: Order) -> list[str]:
    """The names of the parts of what is ordered."""
    return [part.object_id for part in iterate_object_tree(order.message_object_trees[0])]


@contextmanager
def running_front(
    root: Path, *, insecure: bool = False, passphrase: bytes | None = None, **settings: Any
) -> Iterator[Front]:
    """A front in the folder `root`, in use by a coordinator."""
    home = CoordinatorHome(root)
    wanted = ServerSettings.model_validate({"port": 0, "task": TASK} | settings)
    initialise(home, wanted, names=["127.0.0.1"], passphrase=passphrase)
    home.releases.mkdir()
    password = None
    if passphrase is not None:
        password = KeyFolder.unlock(home.keys, passphrase).password
    registry = Registry(home.database)
    authority = DeviceAuthority.load(home, KeyGroup.FRONT.password(password))
    with (
        _identity_kept(),
        FrontProcess(home, wanted, password, insecure) as process,
        hold_fleet(process.private_address, process.secret) as fleet,
    ):
        yield Front(home, wanted, process, fleet, registry, authority, insecure)
    registry.close()


@contextmanager
def _identity_kept() -> Iterator[None]:
    """Flower knows one run per process; here a front may be in use while another comes and goes."""
    names = ("_task_id", "_run_id", "_node_id")
    before = {name: getattr(TaskIdentity, name) for name in names}
    yield
    for name, value in before.items():
        setattr(TaskIdentity, name, value)


@contextmanager
def in_thread(work: Callable[[], None]) -> Iterator[None]:
    """Do `work` beside what is in the context, and raise what it raises."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join(timeout=60)
    assert not thread.is_alive()
    if errors:
        raise errors[0]
