"""Who gets through to Flower, what of what they say, and how much."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest, PushMessagesRequest
from flwr.proto.message_pb2 import PushObjectRequest
from starlette.responses import Response
from starlette.types import Message

from common.security.certificates import issue_device_ca, make_root
from fl_server import limits
from fl_server.authority import DeviceAuthority
from fl_server.enrolment import approve, enrol, renew, revoke
from fl_server.fleet import FleetLostError, Reply
from fl_server.front import SWEEP_SECONDS
from fl_server.gate import LIMITS, UPLOAD_ROOM, UPLOADS, Account, Gate
from fl_server.home import CoordinatorHome
from fl_server.limits import Pace, read_body
from fl_server.link import Nodes, make_superlink
from fl_server.refusal import RefusedError, refusal
from fl_server.registry import Device, Registry
from fl_server.roster import Roster
from fl_server.settings import DeviceRules
from fl_server.tokens import make_token
from tests.fl_server.made_devices import MadeDevice
from tests.fl_server.made_front import EnrolledDevice, Front, Order, in_thread, running_front
from tests.processes import wait_for

WEIGHTS_BYTES = 100_000


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    with running_front(tmp_path_factory.mktemp("gate")) as front:
        front.release_weights(WEIGHTS_BYTES)
        yield front


names = iter(f"device{number}" for number in range(1000))


@pytest.fixture
def device(front: Front) -> Iterator[EnrolledDevice]:
    """An enrolled device with a link."""
    device = front.enrol(next(names))
    assert device.activate().is_success
    yield device
    device.deactivate()
    device.web.close()


def refused(response: httpx.Response) -> tuple[int, str]:
    """Status and code of a refusal, which must be one in words."""
    said = response.json()
    assert set(said) == {"code", "happened", "remedy"}, said
    assert said["happened"]
    assert said["remedy"]
    return response.status_code, said["code"]


def order_for(front: Front, device: EnrolledDevice, seconds: float = 20.0) -> tuple[Order, list[Reply]]:
    """An order that `device` has been given, and where the coordinator's replies will be."""
    replies: list[Reply] = []

    def ask() -> None:
        # What a test does not wait for may outlive the front.
        with suppress(FleetLostError, RuntimeError):
            asked = front.fleet.ask(b"a plan", "train", seconds, bytes(50_000), [device.node.node_id])
            replies.extend(Reply(reply.node, bytes(reply.data or b""), reply.failure) for reply in asked)

    threading.Thread(target=ask, daemon=True).start()
    return device.await_order(), replies


def headers_only(device: EnrolledDevice, kind: str, **headers: str) -> int:
    """The status of a request of which nothing but the head is ever sent."""
    front = device.front
    connection = http.client.HTTPSConnection(
        "127.0.0.1", front.process.port, context=front.trust(), timeout=60
    )
    connection.putrequest("POST", f"/v1/fleet/{kind}")
    for name, value in (device.signed() | headers).items():
        connection.putheader(name, value)
    connection.endheaders()
    status = connection.getresponse().status
    connection.close()
    return status


def test_an_order_goes_out_and_its_answer_comes_back(front: Front, device: EnrolledDevice) -> None:
    assert front.fleet.online()[device.node.node_id] == device.id
    replies: list[Reply] = []

    def ask() -> None:
        asked = front.fleet.ask(b"a plan", "train", 20.0, bytes(50_000), [device.node.node_id])
        replies.extend(Reply(reply.node, bytes(reply.data or b"")) for reply in asked)

    with in_thread(ask):
        order = device.await_order()
        parts = device.fetch_all(order)
        assert any(b"a plan" in part for part in parts.values())
        assert device.confirm(order).is_success
        device.answer(order, b"hello" * 20_000)
    assert replies == [Reply(device.node.node_id, b"hello" * 20_000)]


def test_a_key_that_nobody_has_is_refused_before_its_request_is_read(front: Front) -> None:
    stranger = EnrolledDevice(front, MadeDevice("stranger"), "0" * 32, front.web())
    for kind in LIMITS:
        assert refused(stranger.say(kind, b"whatever")) == (401, "FA-5050")
    assert headers_only(stranger, "push-object", **{"content-length": "5000000"}) == 401


def test_only_the_holder_of_the_key_is_let_in(device: EnrolledDevice) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    request = PullMessagesRequest(node=device.node)
    forged = device.signed(key=other)
    assert refused(device.say("pull-messages", request, **forged)) == (401, "FA-5080")
    for header, value in {
        "flwr-signature": "AAAA",
        "flwr-public-key": "not base64!",
        "flwr-timestamp": "yesterday",
    }.items():
        assert refused(device.say("pull-messages", request, **{header: value})) == (401, "FA-5080"), header
    bare = device.web.post("/v1/fleet/pull-messages", content=request.SerializeToString())
    assert refused(bare) == (401, "FA-5080")
    naive = device.signed(datetime.now(UTC).replace(tzinfo=None))
    assert refused(device.say("pull-messages", request, **naive)) == (401, "FA-5080")


@pytest.mark.parametrize("wrong", [timedelta(minutes=-10), timedelta(minutes=10), timedelta(days=-3650)])
def test_a_request_from_another_time_names_the_clock(device: EnrolledDevice, wrong: timedelta) -> None:
    response = device.say("pull-messages", b"", **device.signed(datetime.now(UTC) + wrong))
    assert refused(response) == (401, "FA-5081")
    assert "clock" in response.json()["remedy"]


def test_a_signature_that_is_a_little_old_is_good(device: EnrolledDevice) -> None:
    request = PullMessagesRequest(node=device.node)
    slow = device.signed(datetime.now(UTC) - timedelta(minutes=4))
    assert device.say("pull-messages", request, **slow).is_success


def test_a_header_twice_is_refused(front: Front, device: EnrolledDevice) -> None:
    """Flower would read the first and we the last."""
    pairs = [*device.signed().items(), ("flwr-public-key", "x")]
    response = device.web.post("/v1/fleet/pull-messages", content=b"", headers=pairs)
    assert refused(response) == (400, "FA-5083")


def test_a_revoked_device_is_refused_from_the_next_message_on(front: Front, device: EnrolledDevice) -> None:
    assert device.beat().is_success
    revoke(front.registry, device.id, "lost")
    for kind in LIMITS:
        assert refused(device.say(kind, b"")) == (403, "FA-5048")
    assert device.node.node_id not in front.fleet.online()
    assert refused(device.activate()) == (403, "FA-5048")


def test_a_device_that_is_revoked_while_it_speaks_is_not_let_in(front: Front) -> None:
    device = front.enrol(next(names))
    body = ActivateNodeRequest(
        public_key=device.made.node_pem.encode(), heartbeat_interval=10
    ).SerializeToString()
    connection = http.client.HTTPSConnection(
        "127.0.0.1", front.process.port, context=front.trust(), timeout=60
    )
    connection.putrequest("POST", "/v1/fleet/activate-node")
    for name, value in (device.signed() | {"content-length": str(len(body))}).items():
        connection.putheader(name, value)
    connection.endheaders(body[:1])
    # Its requests come in turn, so when this one is answered the other one is in hand.
    assert not device.beat().is_success
    revoke(front.registry, device.id, "lost")
    # The front has swept since, and will again.
    time.sleep(2 * SWEEP_SECONDS)
    connection.send(body[1:])
    response = connection.getresponse()
    assert (response.status, json.loads(response.read())["code"]) == (403, "FA-5048")
    connection.close()
    assert device.id not in front.fleet.online().values()


def test_a_revoked_device_that_keeps_still_is_put_out_and_not_waited_for(
    front: Front, device: EnrolledDevice
) -> None:
    _, replies = order_for(front, device, seconds=250)
    revoke(front.registry, device.id, "lost")
    wait_for(lambda: bool(replies), "the end of waiting")
    assert replies[0].failure
    assert device.node.node_id not in front.fleet.online()


def test_a_device_that_waits_for_approval_is_let_in_once_it_has_it(front: Front) -> None:
    rules = DeviceRules(approval=True)
    device = front.enrol(next(names), rules)
    assert refused(device.activate()) == (403, "FA-5053")
    approve(front.registry, front.authority, rules, device.id)
    assert device.activate().is_success


def test_an_expired_certificate_is_refused(front: Front) -> None:
    rules = DeviceRules(certificate_days=1)
    device = front.enrol(next(names), rules, datetime.now(UTC) - timedelta(days=2))
    assert refused(device.activate()) == (403, "FA-5052")


def test_a_device_is_put_out_when_its_certificate_expires(front: Front) -> None:
    rules, life = DeviceRules(certificate_days=1), timedelta(seconds=3)
    device = front.enrol(next(names), rules, datetime.now(UTC) - timedelta(days=1) + life)
    assert device.activate().is_success
    assert device.node.node_id in front.fleet.online()
    wait_for(lambda: device.node.node_id not in front.fleet.online(), "expiry")
    assert refused(device.beat()) == (403, "FA-5052")


def certificate_of(front: Front, device: EnrolledDevice) -> str:
    with front.registry.session() as session:
        return session.get_one(Device, device.id).certificate


def change_row(front: Front, device: EnrolledDevice, **changes: str) -> None:
    with front.registry.session() as session:
        row = session.get_one(Device, device.id)
        for name, value in changes.items():
            setattr(row, name, value)


def test_a_renewed_certificate_changes_nothing(front: Front) -> None:
    device = front.enrol(next(names), now=datetime.now(UTC) - timedelta(hours=2))
    assert device.activate().is_success
    serial = front.authority.read(certificate_of(front, device)).serial
    renew(front.registry, front.authority, DeviceRules(), device.made.renewal(device.id, serial))
    assert front.authority.read(certificate_of(front, device)).serial != serial
    assert device.beat().is_success
    assert device.node.node_id in front.fleet.online()


def test_after_a_rotation_the_new_key_is_let_in_and_the_old_one_is_nobodys(
    front: Front, device: EnrolledDevice
) -> None:
    serial = front.authority.read(certificate_of(front, device)).serial
    new = MadeDevice(device.made.name)
    wish = new.renewal(device.id, serial, signer=device.made)
    renew(front.registry, front.authority, DeviceRules(), wish)
    assert refused(device.beat()) == (401, "FA-5050")
    rotated = EnrolledDevice(front, new, device.id, device.web)
    assert rotated.activate().is_success
    wait_for(lambda: device.node.node_id not in front.fleet.online(), "the old node's end")
    assert front.fleet.online()[rotated.node.node_id] == device.id


def test_a_node_key_that_our_ca_has_not_certified_is_refused(front: Front, device: EnrolledDevice) -> None:
    mine = certificate_of(front, device)
    root, root_key = make_root()
    ca, ca_key = issue_device_ca(root, root_key)
    foreign = DeviceAuthority((ca,), ca_key)
    said = front.authority.read(mine)
    forged = foreign.issue(device=device.id, name=said.name, identity=said.identity, node=said.node, days=1)
    other = certificate_of(front, front.enrol(next(names)))
    for certificate in (forged, other, "", "rubbish"):
        change_row(front, device, certificate=certificate)
        assert refused(device.beat()) == (403, "FA-5084"), certificate
    change_row(front, device, certificate=mine)
    assert device.activate().is_success
    another = MadeDevice("another")
    change_row(front, device, node_key=another.node_pem)
    assert refused(EnrolledDevice(front, another, device.id, device.web).activate()) == (403, "FA-5084")


def test_a_registry_that_cannot_be_read_lets_nobody_in(front: Front, device: EnrolledDevice) -> None:
    with front.registry.session() as session:
        session.connection().exec_driver_sql("ALTER TABLE devices RENAME TO gone")
    try:
        assert refused(device.beat()) == (503, "FA-5093")
    finally:
        with front.registry.session() as session:
            session.connection().exec_driver_sql("ALTER TABLE gone RENAME TO devices")
    assert device.activate().is_success


def test_nobody_links_another_ones_node(front: Front, device: EnrolledDevice) -> None:
    other = front.enrol(next(names))
    request = ActivateNodeRequest(public_key=other.made.node_pem.encode(), heartbeat_interval=10)
    assert refused(device.say("activate-node", request)) == (403, "FA-5082")


def test_nobody_speaks_with_another_ones_node(front: Front, device: EnrolledDevice) -> None:
    """That is Flower's own check, which is on."""
    other = front.enrol(next(names))
    other.activate()
    response = device.say("pull-messages", PullMessagesRequest(node=other.node))
    assert response.status_code == 401
    assert "SuperNode authentication" in response.text


def test_a_reply_in_anothers_name_is_refused(front: Front, device: EnrolledDevice) -> None:
    victim = front.enrol(next(names))
    victim.activate()
    order, replies = order_for(front, victim)
    mine, _ = order_for(front, device)
    forged = device.make_reply(order, b"forged", src_node_id=victim.node.node_id)
    assert refused(device.announce(forged)) == (403, "FA-5082")
    as_myself = device.make_reply(order, b"forged")
    assert refused(device.announce(as_myself)) == (403, "FA-5082")
    in_my_order = device.make_reply(mine, b"forged", src_node_id=victim.node.node_id)
    assert refused(device.announce(in_my_order)) == (403, "FA-5082")
    victim.answer(order, b"genuine")
    wait_for(lambda: bool(replies), "the answer")
    assert replies[0].data == b"genuine"


def test_a_device_gives_no_orders(front: Front, device: EnrolledDevice) -> None:
    """Flower would take a message from node 1 for the coordinator's, and hand it out."""
    victim = front.enrol(next(names))
    victim.activate()
    mine, _ = order_for(front, device)
    order = device.make_reply(
        mine, b"an order", src_node_id=1, dst_node_id=victim.node.node_id, reply_to_message_id=""
    )
    assert not device.announce(order).is_success
    assert not Order.FromString(victim.pull().content).messages_list


def test_a_device_fetches_and_confirms_only_what_is_for_it(front: Front, device: EnrolledDevice) -> None:
    other = front.enrol(next(names))
    other.activate()
    order, _ = order_for(front, other)
    name = order.message_object_trees[0].object_id
    assert refused(device.fetch(order, name)) == (403, "FA-5082")
    assert refused(device.confirm(order)) == (403, "FA-5082")
    assert other.fetch_all(order)


@pytest.mark.parametrize(
    "kind", ["activate-node", "push-messages", "pull-object", "confirm-message-received"]
)
def test_what_cannot_be_parsed_is_refused(front: Front, device: EnrolledDevice, kind: str) -> None:
    order_for(front, device)
    assert refused(device.say(kind, b"\xff\xff\xff")) == (400, "FA-5083")


def test_push_messages_holds_one_message(front: Front, device: EnrolledDevice) -> None:
    order_for(front, device)
    empty = PushMessagesRequest(node=device.node)
    assert refused(device.say("push-messages", empty)) == (400, "FA-5083")


@pytest.mark.parametrize("kind", UPLOADS)
def test_who_was_asked_nothing_uploads_nothing(device: EnrolledDevice, kind: str) -> None:
    assert refused(device.say(kind, b"x")) == (413, "FA-5086")
    assert headers_only(device, kind, **{"content-length": "5000000"}) == 413


def test_more_than_the_order_allows_is_cut_off_and_never_in_memory(
    front: Front, device: EnrolledDevice
) -> None:
    order, _ = order_for(front, device)
    allowed = WEIGHTS_BYTES + UPLOAD_ROOM
    memory = front.process.memory()
    for _ in range(5):
        assert headers_only(device, "push-object", **{"content-length": str(allowed + 1)}) == 413
    part = PushObjectRequest(node=device.node, session_id="none", object_content=bytes(allowed // 4))
    part.run_id = order.messages_list[0].metadata.run_id
    assert [device.say("push-object", part).status_code for _ in range(6)] == [200, 200, 200, 413, 413, 413]
    # 200 more try to get 3 GB in.
    with ThreadPoolExecutor(8) as threads:
        huge = {"content-length": str(16 << 20)}
        statuses = set(threads.map(lambda _: headers_only(device, "push-object", **huge), range(200)))
    assert statuses <= {413, 429}
    assert 413 in statuses
    assert front.process.memory() - memory < 30 << 20


def test_an_upload_that_was_cut_short_can_be_made_again(front: Front, device: EnrolledDevice) -> None:
    order, replies = order_for(front, device)
    size = str(WEIGHTS_BYTES + UPLOAD_ROOM)
    for _ in range(3):
        connection = http.client.HTTPSConnection(
            "127.0.0.1", front.process.port, context=front.trust(), timeout=60
        )
        connection.putrequest("POST", "/v1/fleet/push-object")
        for name, value in (device.signed() | {"content-length": size}).items():
            connection.putheader(name, value)
        connection.endheaders(b"x" * 1000)
        connection.close()

    reply = device.make_reply(order, b"whole")
    announced: list[httpx.Response] = []

    def announce() -> bool:
        announced.append(device.announce(reply))
        return announced[-1].status_code != 413

    wait_for(announce, "the front to notice")
    assert all(part.is_success for part in device.upload(reply, announced[-1]))
    wait_for(lambda: bool(replies), "the answer")
    assert replies[0].data == b"whole"


@pytest.mark.parametrize(
    "headers",
    [
        {"content-length": str(1 << 30)},
        {"content-length": "9" * 30},
    ],
)
@pytest.mark.parametrize("kind", ["push-object", "pull-messages"])
def test_an_absurd_length_is_refused_at_once(
    front: Front, device: EnrolledDevice, kind: str, headers: dict[str, str]
) -> None:
    order_for(front, device)
    assert headers_only(device, kind, **headers) in {400, 413}


def test_who_floods_is_slowed_down_and_others_are_not(front: Front, device: EnrolledDevice) -> None:
    other = front.enrol(next(names))
    other.activate()
    enough, slowed = threading.Event(), list[httpx.Response]()

    def flood(_: int) -> None:
        with front.web() as web:
            body = PullMessagesRequest(node=device.node).SerializeToString()
            while not enough.is_set():
                answer = web.post("/v1/fleet/pull-messages", content=body, headers=device.signed())
                if answer.status_code == 429:
                    slowed.append(answer)

    def is_slowed() -> bool:
        assert other.beat().is_success
        return len(slowed) > 100

    with ThreadPoolExecutor(12) as threads:
        flooding = threads.map(flood, range(12))
        try:
            wait_for(is_slowed, "the answers to a flood")
        finally:
            enough.set()
    assert list(flooding) == [None] * 12
    assert refused(slowed[0]) == (429, "FA-5087")
    assert int(slowed[0].headers["retry-after"]) >= 1
    wait_for(lambda: device.beat().is_success, "the end of it")


def test_strangers_ask_in_pace_and_devices_are_let_through(
    home: CoordinatorHome, registry: Registry, authority: DeviceAuthority
) -> None:
    """One address, of which three requests are answered; for a device it counts only when it is refused."""
    superlink = make_superlink(b"x" * 32, node_auth=True)
    flower, own = Response(b"flower"), Response(b"own")
    roster = Roster(home.database, authority)
    made = MadeDevice("kitchen")
    enrol(registry, authority, DeviceRules(), made.request(make_token(registry, timedelta(hours=1), 1)))
    pace = Pace(burst=3, rate=0.01)
    gate = Gate(flower, own, Nodes(superlink), roster, lambda: 0, pace)

    async def ask(web: httpx.AsyncClient) -> list[httpx.Response]:
        strangers = [await web.get("/health"), await web.post("/v1/fleet/pull-messages")]
        strangers += [await web.get("/nothing") for _ in range(3)]
        strangers.append(await web.post("/v1/fleet/pull-messages"))
        signed = EnrolledDevice(None, made, "", None).signed()  # type: ignore[arg-type]
        return [*strangers, await web.post("/v1/fleet/send-node-heartbeat", headers=signed)]

    async def visit(address: str) -> list[httpx.Response]:
        transport = httpx.ASGITransport(gate, client=(address, 1))
        async with httpx.AsyncClient(transport=transport, base_url="https://here") as web:
            return await ask(web)

    for address in ("192.0.2.1", "192.0.2.2"):
        answers = asyncio.run(visit(address))
        assert [answer.status_code for answer in answers] == [200, 401, 200, 429, 429, 429, 200]
        assert refused(answers[3]) == refused(answers[5]) == (429, "FA-5087")
        assert answers[3].headers["retry-after"] == "1"
        assert answers[-1].content == b"flower"
    roster.close()


def test_a_device_has_few_requests_in_hand_at_once(front: Front, device: EnrolledDevice) -> None:
    connections = []
    for _ in range(8):
        connection = http.client.HTTPSConnection(
            "127.0.0.1", front.process.port, context=front.trust(), timeout=60
        )
        connection.putrequest("POST", "/v1/fleet/pull-messages")
        for name, value in (device.signed() | {"content-length": "1000"}).items():
            connection.putheader(name, value)
        connection.endheaders(b"x")
        connections.append(connection)
    wait_for(lambda: device.beat().status_code == 429, "the limit")
    for connection in connections:
        connection.close()
    wait_for(lambda: device.beat().is_success, "the limit's end")


def test_a_device_that_comes_back_is_let_in_at_once_and_its_old_order_is_over(
    front: Front, device: EnrolledDevice
) -> None:
    """As after a crash: Flower would turn it away until its old node's heart has stopped."""
    order, replies = order_for(front, device, seconds=250)
    before = device.node.node_id
    assert device.activate().is_success
    assert device.node.node_id != before
    wait_for(lambda: bool(replies), "the end of waiting")
    assert replies[0].failure
    assert not device.announce(device.make_reply(order, b"late")).is_success
    assert device.node.node_id in front.fleet.online()
    assert before not in front.fleet.online()


def test_nodes_come_and_go_without_a_trace(front: Front) -> None:
    device = front.enrol(next(names))
    for _ in range(50):
        assert device.activate().is_success
    assert list(front.fleet.online().values()).count(device.id) == 1


def read(messages: list[Message], length: int) -> bytes | None:
    """What `read_body` makes of a body that comes as `messages` and then not at all."""

    async def receive() -> Message:
        if messages:
            return messages.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    return asyncio.run(read_body(receive, length))


def test_a_body_is_read_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    parts: list[Message] = [
        {"type": "http.request", "body": b"ab", "more_body": True},
        {"type": "http.request", "body": b"c"},
    ]
    assert read([*parts], 3) == b"abc"
    assert read([parts[0], {"type": "http.disconnect"}], 3) is None
    monkeypatch.setattr(limits, "LEAST_SECONDS", 0.05)
    with pytest.raises(RefusedError, match="FA-5089") as caught:
        read([parts[0]], 3)
    assert caught.value.http_status == 408


def test_an_account_forgets_old_orders() -> None:
    account = Account(b"")
    for number in range(10):
        account.take_order(str(number), frozenset({f"part{number}"}), 10)
    assert [account.was_asked(str(number)) for number in (0, 5, 6, 9)] == [False, False, True, True]
    assert account.may_fetch("part9")
    assert not account.may_fetch("part0")
    account.count(10)
    with pytest.raises(RefusedError, match="FA-5086"):
        account.count(1)
    account.count(-10)
    account.count(-10)
    with pytest.raises(RefusedError, match="FA-5086"):
        account.count(11)
    account.begin_anew()
    account.count(-10)
    with pytest.raises(RefusedError, match="FA-5086"):
        account.count(1)


def test_a_refusal_says_when_to_come_back_and_is_short() -> None:
    error = RefusedError(429, "FA-5087", "x" * 1000, "y", retry_seconds=2)
    response = refusal(error)
    assert (response.status_code, response.headers["retry-after"]) == (429, "2")
    assert len(json.loads(bytes(response.body))["happened"]) == 500
