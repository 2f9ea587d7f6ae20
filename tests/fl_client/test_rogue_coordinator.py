"""A coordinator that answers, but not as it should: the device complains, and takes up where it was."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import threading
from base64 import b64decode
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.clientapp import ClientApp
from flwr.proto.fleet_pb2 import ActivateNodeResponse, PullMessagesResponse, RegisterNodeFleetResponse
from flwr.proto.message_pb2 import Message, Metadata, ObjectTree, PullObjectResponse
from flwr.proto.recorddict_pb2 import RecordDict

from common.errors import FedAudioError
from common.protocol.enrolment import Refused
from common.security.canonical import canonical
from fl_client import link
from fl_client.connection import Access, Clock, RefusedError, UnreachableError, clock_wrong, pinned_context
from fl_client.device import Device
from fl_client.home import DeviceHome
from fl_client.link import FleetLink, LinkLostError, stay_linked
from tests.fl_client.made_coordinator import Answer, answers, serving
from tests.fl_client.made_identity import Authority, Made, make_home
from tests.processes import ROOT, wait_for

ACTIVATED = ActivateNodeResponse(node_id=7).SerializeToString
REVOKED = (403, canonical(Refused(code="FA-5048", happened="The device was revoked.", remedy="Ask.")))


def bare(address: str, clock: Clock | None = None) -> Access:
    return Access(address, ec.generate_private_key(ec.SECP256R1()), None, clock or Clock())


def pinned(made: Made, address: str) -> Access:
    return Access(address, made.identity.node_key, pinned_context(made.trust), Clock())


def fleet(table: dict[str, Callable[[], Answer]]) -> dict[str, Callable[[], Answer]]:
    ready: dict[str, Callable[[], Answer]] = {
        "/v1/fleet/register-node": RegisterNodeFleetResponse().SerializeToString,
        "/v1/fleet/activate-node": ACTIVATED,
    }
    return ready | table


def announced(parts: int) -> bytes:
    metadata = Metadata(run_id=1, message_id="0" * 64, dst_node_id=1, message_type="train", ttl=60)
    children = [ObjectTree(object_id=f"{number:064x}") for number in range(parts)]
    tree = ObjectTree(object_id="0" * 64, children=children)
    message = Message(metadata=metadata, content=RecordDict())
    return bytes(
        PullMessagesResponse(messages_list=[message], message_object_trees=[tree]).SerializeToString()
    )


def test_a_message_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "LARGEST_MESSAGE", 3_000_000)
    part = PullObjectResponse(object_found=True, object_available=True, object_content=bytes(1_000_000))
    pulled = 0

    def pull() -> bytes:
        nonlocal pulled
        pulled += 1
        return bytes(part.SerializeToString())

    table = fleet({"/v1/fleet/pull-messages": lambda: announced(1000), "/v1/fleet/pull-object": pull})
    with (
        serving(answers(table)) as address,
        FleetLink(bare(address)) as linked,
        pytest.raises(LinkLostError, match="more than"),
    ):
        linked.receive()
    assert pulled == 4


def test_an_answer_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "LARGEST_PART", 1_000_000)
    table = fleet({"/v1/fleet/pull-messages": lambda: bytes(20_000_000)})
    with (
        serving(answers(table)) as address,
        FleetLink(bare(address)) as linked,
        pytest.raises(LinkLostError, match="more than"),
    ):
        linked.receive()


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff" * 1000,
        os.urandom(5000),
        b"{}",
        PullMessagesResponse(messages_list=[Message()]).SerializeToString(),
        PullMessagesResponse(
            messages_list=[Message()], message_object_trees=[ObjectTree()]
        ).SerializeToString(),
        (302, b""),
        (500, b"oops"),
        (403, b"\xff"),
        None,
    ],
)
def test_garbage_is_a_lost_link_and_nothing_worse(garbage: Answer) -> None:
    table = fleet({"/v1/fleet/pull-messages": lambda: garbage, "/v1/fleet/pull-object": lambda: garbage})
    with (
        serving(answers(table)) as address,
        FleetLink(bare(address)) as linked,
        pytest.raises(LinkLostError),
    ):
        linked.receive()


def test_a_message_of_garbage_is_a_lost_link() -> None:
    part = PullObjectResponse(object_found=True, object_available=True, object_content=b"Message 3\x00abc")
    table = fleet(
        {"/v1/fleet/pull-messages": lambda: announced(2), "/v1/fleet/pull-object": part.SerializeToString}
    )
    with (
        serving(answers(table)) as address,
        FleetLink(bare(address)) as linked,
        pytest.raises(LinkLostError, match="unreadable"),
    ):
        linked.receive()


class TestPinned:
    def test_a_man_in_the_middle_gets_no_request(self, made: Made, tmp_path: Path) -> None:
        seen: list[str] = []

        def respond(path: str, body: bytes) -> Answer:
            seen.append(path)
            return b""

        with (
            serving(respond, Authority.make().server_context(tmp_path)) as address,
            pytest.raises(LinkLostError, match=r"(?i)certificate"),
            FleetLink(pinned(made, address)),
        ):
            pass
        assert seen == []

    def test_the_coordinator_made_the_node(self, made: Made, tmp_path: Path) -> None:
        seen: list[str] = []

        def respond(path: str, body: bytes) -> Answer:
            seen.append(path.rpartition("/")[2])
            return answers(fleet({}))(path, body)

        with (
            serving(respond, made.authority.server_context(tmp_path)) as address,
            FleetLink(pinned(made, address)) as linked,
        ):
            assert linked.node_id == 7
        assert seen == ["activate-node", "deactivate-node"]


def test_requests_are_signed_with_the_coordinators_time(made: Made) -> None:
    headers: dict[str, str] = {}
    clock = Clock()
    clock.learn(datetime.now(UTC) + timedelta(minutes=10))
    access = bare("127.0.0.1:1", clock)
    client = link.FleetClient(access)

    def note(request: object, **_: object) -> None:
        headers.update(request.headers)  # type: ignore[attr-defined]
        raise LinkLostError

    client._client.send = note  # type: ignore[assignment, method-assign]
    with pytest.raises(LinkLostError):
        client.ActivateNode(link.ActivateNodeRequest(public_key=b"x", heartbeat_interval=10))
    moment = headers[link.TIMESTAMP_HEADER]
    ahead = datetime.fromisoformat(moment) - datetime.now(UTC)
    assert timedelta(minutes=9) < ahead < timedelta(minutes=11)
    signature = b64decode(headers[link.FLEET_HTTP_SIGNATURE_HEADER])
    access.key.public_key().verify(signature, moment.encode(), ec.ECDSA(hashes.SHA256()))


class TestRefused:
    def test_a_revoked_device_says_so_and_asks_again_slowly(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stop, told, pauses = threading.Event(), list[RefusedError](), list[float]()
        table = fleet({"/v1/fleet/activate-node": lambda: REVOKED})

        def wait(seconds: float | None = None) -> bool:
            pauses.append(seconds or 0.0)
            if len(pauses) == 10:
                stop.set()
            return stop.is_set()

        monkeypatch.setattr(stop, "wait", wait)
        with serving(answers(table)) as address:
            stay_linked(lambda: bare(address), ClientApp(), stop, lambda link: None, on_refusal=told.append)
        assert "FA-5048" in caplog.text
        assert "The device was revoked." in caplog.text
        assert {error.reason.code for error in told} == {"FA-5048"}
        assert all(30 <= pause <= 60 for pause in pauses[8:])

    def test_a_wrong_clock_is_told_and_an_absent_coordinator_is_not(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stop, told = threading.Event(), list[FedAudioError]()
        monkeypatch.setattr(stop, "wait", lambda seconds=None: stop.is_set())
        reasons = [
            UnreachableError("there", OSError("no route")),
            clock_wrong("the coordinator's says another", datetime.now(UTC)),
        ]

        def access() -> Access:
            if len(reasons) == 1:
                stop.set()
            raise reasons.pop(0)

        stay_linked(access, ClientApp(), stop, lambda link: None, on_refusal=told.append)
        assert [error.code for error in told] == ["FA-4015"]

    def test_revoked_in_the_middle(self) -> None:
        table = fleet({"/v1/fleet/pull-messages": lambda: REVOKED})
        with (
            serving(answers(table)) as address,
            FleetLink(bare(address)) as linked,
            pytest.raises(RefusedError, match="FA-5048"),
        ):
            linked.receive()

    def test_a_new_certificate_makes_a_new_link(self) -> None:
        stop, reload, made = threading.Event(), threading.Event(), list[str]()

        def access() -> Access:
            made.append("access")
            return bare(address)

        with serving(answers(fleet({}))) as address:
            running = threading.Thread(
                target=stay_linked,
                args=(access, ClientApp(), stop, lambda link: None),
                kwargs={"reload": reload},
            )
            running.start()
            wait_for(lambda: len(made) == 1, "a link")
            reload.set()
            wait_for(lambda: len(made) == 2, "another link")
            stop.set()
            running.join(timeout=30)
        assert not running.is_alive()


def test_over_a_wrong_clock_nothing_is_linked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    authority, stop = Authority.make(), threading.Event()
    table: dict[str, Callable[[], Answer]] = {"/health": lambda: b'{"status":"ok","time":1000000000}'}
    with serving(answers(table), authority.server_context(tmp_path)) as address:
        made = make_home(tmp_path / "device", authority=authority, server=address)
        device = Device(made.home)
        running = threading.Thread(
            target=stay_linked, args=(device.access, ClientApp(), stop, lambda link: None)
        )
        with caplog.at_level(logging.WARNING):
            running.start()
            wait_for(lambda: "FA-4015" in caplog.text, "a word about the clock")
        stop.set()
        running.join(timeout=30)


def test_half_a_link_ends_so_that_a_whole_one_can_be_started(device: DeviceHome) -> None:
    # A fault that nobody foresaw stands for all of them.
    script = (
        "import sys; from fl_client import link_process\n"
        "link_process.follow_releases = lambda *_, **__: 1 / 0\n"
        "link_process.main()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(device.root)],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
        log = process.stderr.read().decode()
        assert process.wait() == 1
    assert re.search("a part of the link has failed.*ZeroDivisionError", log, re.DOTALL)
