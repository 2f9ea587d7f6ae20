"""Contracts with Flower 1.41's internals, and what the public port shows: a real front in a child process."""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from common.errors import CoordinatorError
from common.files import sha256
from common.protocol.answer import Answer, decode_answer
from common.protocol.plan import Plan
from common.protocol.release import FILES, GRAPH, MANIFEST, WEIGHTS
from common.protocol.tensors import Weights, encode_weights, schema_of
from common.security.certificates import make_certificate
from common.task import Task
from fl_client.link import FleetLink, LinkLostError
from fl_server.app import GridFleet, hold_fleet
from fl_server.fleet import FleetLostError
from fl_server.front_process import FrontProcess
from fl_server.home import CoordinatorHome
from fl_server.initialise import initialise
from fl_server.link import CoordinatorGrid, _limited
from fl_server.releases import point_to, store_release
from fl_server.settings import ServerSettings
from tests.faults.light_devices import delta_of
from tests.processes import ROOT, wait_for

TASK = Task(labels=("yes", "no"))
DEVICES = ("good=honest", "bad=error")


@dataclass(frozen=True)
class Front:
    """A running front with its coordinator's end of the fleet."""

    home: CoordinatorHome
    settings: ServerSettings
    process: FrontProcess
    fleet: GridFleet
    ca: bytes

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.process.port}"

    def web(self) -> httpx.Client:
        trust = ssl.create_default_context(cadata=self.ca.decode())
        return httpx.Client(base_url=f"https://{self.address}", verify=trust, trust_env=False, timeout=60)


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    home = CoordinatorHome(tmp_path_factory.mktemp("front"))
    settings = ServerSettings(port=0, task=TASK)
    initialise(home, settings, names=["127.0.0.1"])
    home.releases.mkdir()
    with (
        FrontProcess(home, settings) as process,
        hold_fleet(process.private_address, process.secret) as fleet,
    ):
        yield Front(home, settings, process, fleet, home.certificate.read_bytes())


@pytest.fixture(scope="module")
def nodes(front: Front) -> Iterator[list[int]]:
    """One honest device and one whose app raises, linked from another process."""
    command = [sys.executable, "-m", "tests.faults.light_devices", front.address, str(front.home.certificate)]
    process = subprocess.Popen(
        [*command, *DEVICES], stdin=subprocess.PIPE, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    try:
        wait_for(lambda: len(front.fleet.online()) >= len(DEVICES), "devices")
        yield front.fleet.online()
    finally:
        process.kill()
        process.wait()


def make_plan(weights: bytes, **changes: object) -> Plan:
    facts = {"run": "r", "round": 1, "task": TASK, "base": sha256(weights), "seconds": 60}
    return Plan.model_validate(facts | changes)


def five_megabytes() -> Weights:
    rng = np.random.default_rng(0)
    return {"large": rng.normal(size=1_300_000).astype(np.float32), "small": np.ones((2, 2), np.float32)}


def test_a_plan_and_five_megabytes_go_out_and_an_answer_and_an_error_come_back(
    front: Front, nodes: list[int]
) -> None:
    weights = five_megabytes()
    data = encode_weights(weights)
    replies = {reply.node: reply for reply in front.fleet.ask(make_plan(data), data, nodes)}
    assert sorted(replies) == nodes
    good = [reply for reply in replies.values() if reply.data is not None]
    bad = [reply for reply in replies.values() if reply.data is None]
    assert [reply.failure for reply in bad] == ["ValueError"]
    assert good[0].data is not None
    answer = decode_answer(good[0].data, schema_of(weights))
    assert isinstance(answer, Answer)
    assert answer.report.base == sha256(data)
    expected = delta_of("good", schema_of(weights))
    assert all(answer.delta[name].tobytes() == expected[name].tobytes() for name in expected)


def test_an_evaluation_goes_the_same_way(front: Front, nodes: list[int]) -> None:
    data = encode_weights(five_megabytes())
    replies = list(front.fleet.ask(make_plan(data, kind="evaluate"), data, nodes))
    answers = [decode_answer(reply.data, {}) for reply in replies if reply.data is not None]
    assert [answer.report.correct for answer in answers if isinstance(answer, Answer)] == [3]


def test_a_node_that_does_not_exist_keeps_nobody_waiting(front: Front, nodes: list[int]) -> None:
    data = encode_weights({"w": np.ones(2, np.float32)})
    asked = [nodes[0], 12345, nodes[1]]
    replies = list(front.fleet.ask(make_plan(data, seconds=3), data, asked))
    assert {reply.node for reply in replies if reply.node != 12345} == set(nodes)
    assert all(reply.data is None for reply in replies if reply.node == 12345)


def test_nobody_asked_nobody_waited_for(front: Front) -> None:
    data = encode_weights({"w": np.ones(2, np.float32)})
    assert list(front.fleet.ask(make_plan(data), data, [])) == []


def test_a_device_is_online_from_its_link_to_its_end(front: Front) -> None:
    before = set(front.fleet.online())
    with FleetLink(front.address, front.ca) as link:
        assert set(front.fleet.online()) == before | {link.node_id}
        assert link.receive() is None
    assert set(front.fleet.online()) == before


def test_a_device_the_coordinator_does_not_know_loses_its_link(front: Front) -> None:
    with FleetLink(front.address, front.ca) as link:
        link._node.node_id = 12345
        with pytest.raises(LinkLostError):
            link.receive()


def test_a_device_trusts_only_the_certificate_it_was_given(front: Front) -> None:
    other, _ = make_certificate(["127.0.0.1"])
    with pytest.raises(LinkLostError, match=r"(?i)certificate"), FleetLink(front.address, other):
        pass


def test_a_device_does_not_accept_another_name(tmp_path: Path) -> None:
    home = CoordinatorHome(tmp_path / "other")
    settings = ServerSettings(port=0, task=TASK)
    initialise(home, settings, names=["elsewhere.example"])
    with FrontProcess(home, settings) as process:
        ca = home.certificate.read_bytes()
        with (
            pytest.raises(LinkLostError, match=r"(?i)certificate"),
            FleetLink(f"127.0.0.1:{process.port}", ca),
        ):
            pass


def test_plain_http_is_not_spoken(front: Front) -> None:
    with pytest.raises(LinkLostError), FleetLink(front.address, None):
        pass
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://{front.address}/health", trust_env=False)


def test_nobody_listening_is_a_lost_link(front: Front) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(LinkLostError), FleetLink(f"127.0.0.1:{unused.getsockname()[1]}", front.ca):
            pass


def test_without_the_secret_nobody_becomes_the_coordinator(front: Front) -> None:
    with (
        pytest.raises(FleetLostError),
        hold_fleet(front.process.private_address, b"x" * 32),
    ):
        pass
    grid = CoordinatorGrid(front.process.private_address, "forged token")
    with pytest.raises(httpx.HTTPStatusError):
        list(grid.get_node_ids())


def test_a_front_that_is_gone_is_said_to_be(tmp_path: Path, front: Front) -> None:
    settings = front.settings
    home = CoordinatorHome(tmp_path / "gone")
    initialise(home, settings, names=["127.0.0.1"])
    with FrontProcess(home, settings) as process:
        os.kill(process.pid, 9)
        with (
            pytest.raises(FleetLostError),
            hold_fleet(process.private_address, process.secret),
        ):
            pass


CLOSED = [
    "/",
    "/docs",
    "/redoc",
    "/openapi.json",
    "/v1",
    "/v1/fleet",
    "/v1/control/start-run",
    "/v1/control/list-runs",
    "/v1/runtime/acquire-task",
    "/v1/runtime/pull-messages",
    "/v1/fleet/../control/list-runs",
    "/v1/fleet/%2e%2e/control/list-runs",
    "/v1/fleet/..%2fcontrol%2flist-runs",
    "/v1/fleet//../../docs",
    "//v1/control/list-runs",
    "/V1/control/list-runs",
    "/v1/releases/0",
    "/v1/releases/0/",
    "/v1/releases/0/coordinator.db",
    "/v1/releases/0/..%2f..%2fserver.toml",
    "/v1/releases/0/../../server.toml",
    "/v1/releases/0/../../keys/tls.key",
    "/v1/releases/..%2fkeys/tls.key",
    "/v1/releases/current",
    "/v1/releases/-1/manifest.json",
    "/v1/releases/1e3/manifest.json",
    "/v1/releases/99999999/manifest.json",
    "/v1/releases/" + "9" * 300 + "/manifest.json",
    "/v1/releases/" + "9" * 5000 + "/manifest.json",
    "/v1/releases/0/" + "x" * 300,
    "/v1/releases/0/%00",
]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_everything_else_does_not_exist_on_the_public_port(front: Front, method: str) -> None:
    store_release(front.home.releases, 0, dict.fromkeys(FILES, b"x"))
    point_to(front.home.releases, 0)
    trust = ssl.create_default_context(cadata=front.ca.decode())
    for path in CLOSED:
        # http.client sends a path as it is; others would tidy it up first.
        connection = http.client.HTTPSConnection("127.0.0.1", front.process.port, context=trust, timeout=30)
        connection.request(method, path, body=b"" if method == "POST" else None)
        status = connection.getresponse().status
        connection.close()
        assert status in {404, 405}, path


def test_an_address_that_is_not_ours_is_explained(front: Front, capfd: pytest.CaptureFixture[str]) -> None:
    # 192.0.2.0/24 is for documentation (RFC 5737): no machine has it.
    settings = front.settings.model_copy(update={"host": "192.0.2.1"})
    with pytest.raises(CoordinatorError, match="FA-5013"):
        FrontProcess(front.home, settings)
    assert "Traceback" not in capfd.readouterr().err


def test_an_end_while_a_device_waits_is_quiet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    home = CoordinatorHome(tmp_path / "ending")
    settings = ServerSettings(port=0, task=TASK)
    initialise(home, settings, names=["127.0.0.1"])
    trust = ssl.create_default_context(cadata=home.certificate.read_text())
    answers: list[int] = []
    with FrontProcess(home, settings) as process:

        def wait() -> None:
            question = f"https://127.0.0.1:{process.port}/v1/releases?wait=30"
            answers.append(httpx.get(question, verify=trust, trust_env=False, timeout=60).status_code)

        waiting = threading.Thread(target=wait)
        waiting.start()
        front_process = psutil.Process(process.pid)
        wait_for(
            lambda: any(link.status == "ESTABLISHED" for link in front_process.net_connections()), "a device"
        )
        assert httpx.get(f"https://127.0.0.1:{process.port}/health", verify=trust, trust_env=False).is_success
    waiting.join(timeout=30)
    assert answers == [204]
    assert capfd.readouterr().err == ""


def test_the_private_port_is_on_loopback(front: Front) -> None:
    host, port = front.process.private_address.split(":")
    assert host == "127.0.0.1"
    assert int(port) != front.process.port


def test_health_and_releases(front: Front) -> None:
    contents = {MANIFEST: b'{"a": 1}', WEIGHTS: b"w" * 100_000, GRAPH: b"g"}
    store_release(front.home.releases, 7, contents)
    with front.web() as web:
        assert web.get("/health").json() == {"status": "ok"}
        assert web.get("/v1/releases/7/manifest.json").status_code == 404, "not given to devices yet"
        point_to(front.home.releases, 7)
        assert web.get("/v1/releases", params={"after": 6, "wait": 30}).json() == {"version": 7}
        assert web.get("/v1/releases").json() == {"version": 7}
        assert web.get("/v1/releases", params={"after": 7}).status_code == 204
        for name, data in contents.items():
            assert web.get(f"/v1/releases/7/{name}").content == data


@pytest.mark.parametrize(
    ("parameters", "status"),
    [
        ({"after": "x"}, 400),
        ({"wait": "soon"}, 400),
        ({"after": "9" * 5000}, 400),
        ({"after": "-5", "wait": "-5"}, 200),
        ({"after": "99999", "wait": "nan"}, 204),
        ({"after": "-1", "wait": "inf"}, 200),
    ],
)
def test_questions_that_make_no_sense(front: Front, parameters: dict[str, str], status: int) -> None:
    point_to(front.home.releases, 7)
    with front.web() as web:
        assert web.get("/v1/releases", params=parameters).status_code == status


def test_a_waiting_device_hears_of_a_release_at_once(front: Front) -> None:
    point_to(front.home.releases, 7)
    heard: list[int] = []

    def listen() -> None:
        with front.web() as web:
            heard.append(web.get("/v1/releases", params={"after": 7, "wait": 30}).json()["version"])

    waiting = threading.Thread(target=listen)
    waiting.start()
    store_release(front.home.releases, 8, dict.fromkeys(FILES, b"x"))
    point_to(front.home.releases, 8)
    waiting.join(timeout=25)
    assert heard == [8]


@pytest.mark.parametrize("headers", [{"Content-Length": str(1 << 30)}, {"Transfer-Encoding": "chunked"}])
def test_an_absurdly_long_request_is_refused_before_it_is_sent(front: Front, headers: dict[str, str]) -> None:
    trust = ssl.create_default_context(cadata=front.ca.decode())
    connection = http.client.HTTPSConnection("127.0.0.1", front.process.port, context=trust, timeout=30)
    connection.putrequest("POST", "/v1/fleet/push-object")
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


def test_a_reply_larger_than_any_honest_one_is_not_let_in(front: Front, nodes: list[int]) -> None:
    data = encode_weights(five_megabytes())
    grid = front.fleet._grid
    assert isinstance(grid, CoordinatorGrid)
    waiting = [
        reply.node for reply in front.fleet.ask(make_plan(data), data, nodes) if reply.data is not None
    ]
    assert waiting
    assert len(data) < grid.largest_reply < len(data) + (2 << 20)

    fetched: list[str] = []

    def fetch(name: str) -> bytes:
        fetched.append(name)
        return bytes(1000)

    limited = _limited(fetch, 2500)
    assert len(limited("a")) == len(limited("b")) == 1000
    with pytest.raises(ValueError, match="2500 bytes"):
        limited("c")
    assert fetched == ["a", "b", "c"]
