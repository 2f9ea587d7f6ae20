"""The local API over real sockets: what it tells, and whom it does not."""

from __future__ import annotations

import asyncio
import json
import secrets
import socket

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from fl_client.listen.events import Event, line_of
from fl_client.outlet.api import LARGEST_HEAD
from fl_client.outlet.feed import WAITING, Feed
from fl_client.outlet.latest import Latest
from fl_client.outlet.sockets import MOST
from fl_client.outlet.tail import KEPT
from tests.fl_client.outlet.conftest import Outlet
from tests.processes import run_cli, wait_for


def live(outlet: Outlet, **options: object) -> ClientConnection:
    address = outlet.url.replace("http", "ws") + "/v1/events"
    return connect(address, compression=None, **options)  # type: ignore[arg-type]


def heard(reader: ClientConnection) -> dict[str, object]:
    message: dict[str, object] = json.loads(reader.recv(timeout=30))
    return message


def make_token(outlet: Outlet) -> str:
    token = secrets.token_urlsafe(32)
    outlet.home.token.touch(mode=0o600)
    outlet.home.token.write_text(token)
    return token


def test_messages_from_before_and_from_now_on(outlet: Outlet) -> None:
    before = outlet.tell("before")
    outlet.start_api()
    assert outlet.labels() == ["before"]
    with live(outlet) as reader:
        outlet.wait(readers=1)
        now = outlet.tell("now")
        assert heard(reader) | {"time": None} == {
            "type": "event", "id": now, "time": None, "label": "now",
            "score": 0.9, "start": 1.0, "end": 2.0, "version": 7, "task": "main",
        }  # fmt: skip
    assert outlet.labels() == ["before", "now"]
    assert outlet.labels(f"?after={before}") == ["now"]
    assert outlet.labels("?limit=1") == ["now"]
    assert outlet.labels("?type=level") == []
    page = outlet.get("/v1/events?after=forgotten&limit=1").json()
    assert (page["events"][0]["id"], page["complete"]) == (before, False)
    outlet.wait(readers=0)
    assert outlet.end() == 0


@pytest.mark.parametrize(
    "query", ["limit=0", f"limit={KEPT + 1}", "limit=x", f"after={'x' * 65}", f"type={'x' * 33}"]
)
def test_questions_that_are_bounded(outlet: Outlet, query: str) -> None:
    outlet.start_api()
    assert outlet.get(f"/v1/events?{query}").status_code == 422


def test_state_and_health(outlet: Outlet) -> None:
    outlet.start_api()
    assert outlet.get("/v1/health").status_code == 503
    state = outlet.get("/v1/state").json()
    assert (state["listening"], state["listener"], state["level"]) == (False, None, None)
    outlet.home.listener_status.write_text(json.dumps({"version": 7, "rtf": float("nan")}))
    with outlet.home.events.open("a") as file:
        file.write(json.dumps({"type": "level", "id": "1", "laeq": 41.5}) + "\n")
    wait_for(lambda: outlet.get("/v1/state").json()["level"] is not None, "the level")
    state = outlet.get("/v1/state").json()
    assert (state["listening"], state["listener"]) == (True, {"version": 7, "rtf": None})
    assert state["level"]["laeq"] == 41.5
    assert state["outlet"]["messages"] >= 0
    assert outlet.get("/v1/health").json() == {"listening": True}


def test_the_state_of_several_tasks(outlet: Outlet) -> None:
    outlet.tasks = {"scene": "../scene", "late": "../late"}
    outlet.tell("drizzle", "scene")
    outlet.tell("gone", "of before")
    outlet.start_api()
    rain, yes = outlet.tell("rain", "scene"), outlet.tell("yes")
    report = {"version": 7, "tasks": {"scene": {"version": 3, "events": 1}}}
    outlet.home.listener_status.write_text(json.dumps(report))
    wait_for(lambda: outlet.get("/v1/state").json()["event"] is not None, "the events")
    state = outlet.get("/v1/state").json()
    assert (state["listener"], state["event"]["id"]) == (report, yes)
    assert state["tasks"].keys() == {"scene", "late"}
    scene = state["tasks"]["scene"]
    assert (scene["version"], scene["event"]["id"], scene["event"]["label"]) == (3, rain, "rain")
    assert state["tasks"]["late"] == {"version": None, "event": None}


@pytest.mark.parametrize("tasks", [None, 1, [], {"scene": None}, {"scene": 3}, {"scene": {}}])
def test_a_listeners_report_is_not_believed_to_be_whole(tasks: object) -> None:
    lines = [{"type": "event", "id": "1", "task": ["main"]}, {"type": "event", "id": "2", "task": 7}]
    latest = Latest(["scene"], lines)
    assert latest.of_further_tasks({"tasks": tasks}) == {"scene": {"version": None, "event": None}}
    assert latest.of("event") is None


def test_nothing_else_is_served(outlet: Outlet) -> None:
    outlet.start_api()
    for path in ("/", "/docs", "/redoc", "/v1", "/v1/events/", "/v1/../device.toml"):
        assert outlet.get(path).status_code in {404, 307}, path
    assert "access-control-allow-origin" not in outlet.get("/v1/state", Origin=outlet.url).headers


def test_web_pages_and_names_of_their_choosing(outlet: Outlet) -> None:
    outlet.start_api()
    for headers in ({"Origin": "https://evil.com"}, {"Host": "evil.com"}, {"Sec-Fetch-Site": "cross-site"}):
        for path in ("/v1/state", "/v1/events", "/v1/health", "/v1/openapi.json", "/nothing"):
            assert outlet.get(path, **headers).status_code == 403, (path, headers)
    with pytest.raises(InvalidStatus) as caught:
        live(outlet, origin="https://evil.com")
    assert caught.value.response.status_code == 403


def test_a_token_is_asked_for_and_a_new_one_counts_at_once(outlet: Outlet) -> None:
    token = make_token(outlet)
    outlet.start_api()
    refused = outlet.get("/v1/state")
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    assert outlet.get("/v1/state?token=" + token).status_code == 401
    assert outlet.get("/v1/state", Authorization=f"Bearer {token}").status_code == 200
    with live(outlet, subprotocols=["fedaudio", f"fedaudio.{token}"]) as reader:
        assert reader.subprotocol == "fedaudio"
    with live(outlet, additional_headers={"Authorization": f"Bearer {token}"}) as reader:
        assert reader.subprotocol is None
    with pytest.raises(InvalidStatus) as caught:
        live(outlet)
    assert caught.value.response.status_code == 401
    made = run_cli("client", "outlet", "token", "--home", str(outlet.home.root), "--json")
    assert json.loads(made.stdout) == {"file": str(outlet.home.token)}
    assert outlet.home.token.stat().st_mode & 0o777 == 0o600
    newer = outlet.home.token.read_text().strip()
    assert newer != token
    assert outlet.get("/v1/state", Authorization=f"Bearer {token}").status_code == 401
    assert outlet.get("/v1/state", Authorization=f"Bearer {newer}").status_code == 200
    assert newer not in outlet.errors.read_text() + made.stdout


def test_an_address_that_others_reach_needs_a_token(outlet: Outlet) -> None:
    process = outlet.spawn(api={"port": outlet.port, "host": "0.0.0.0"})
    assert process.wait(30) == 5
    assert "FA-4230" in outlet.errors.read_text()
    token = make_token(outlet)
    outlet.start_api(host="0.0.0.0", names=["kitchen.lan"])
    bearer = {"Authorization": f"Bearer {token}"}
    assert outlet.get("/v1/health", **bearer, Host="kitchen.lan").status_code == 503
    assert outlet.get("/v1/health", **bearer, Host="kitchen.evil").status_code == 403
    # All of 127.0.0.0/8 is this machine: an address of its own that is not in the settings.
    outlet.url = outlet.url.replace("127.0.0.1", "127.0.0.2")
    assert outlet.get("/v1/health", **bearer).status_code == 503
    assert outlet.get("/v1/health", **bearer, Host="127.0.0.3").status_code == 403
    with live(outlet, additional_headers=bearer):
        outlet.wait(readers=1)
    outlet.home.token.unlink()
    assert outlet.get("/v1/health").status_code == 401


def test_a_port_that_is_taken(outlet: Outlet) -> None:
    with socket.create_server(("127.0.0.1", outlet.port)):
        process = outlet.spawn(api={"port": outlet.port})
        assert process.wait(30) == 5
    assert "FA-4231" in outlet.errors.read_text()


UPGRADE = (
    b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


def test_a_reader_that_does_not_read_is_dropped_and_holds_nobody_up(outlet: Outlet) -> None:
    outlet.start_api()
    with live(outlet) as quick, socket.create_connection(("127.0.0.1", outlet.port)) as stuck:
        stuck.sendall(UPGRADE)
        outlet.wait(readers=2)
        burst, told, got = WAITING // 8, 0, 0
        while outlet.report["readers_dropped"] == 0:
            assert told < 10 * WAITING
            for _ in range(burst):
                outlet.tell("x" * 30_000)
            told += burst
            while got < told:
                assert heard(quick)["type"] == "event"
                got += 1
        outlet.wait(readers=1, readers_dropped=1)
        # Its socket is closed too: else many like it would take up all places.
        stuck.settimeout(60)
        cut_off(stuck)
    outlet.wait(readers=0)


def cut_off(peer: socket.socket) -> None:
    """Read what is under way, until the other side has closed."""
    try:
        while peer.recv(1 << 20):
            pass
    except ConnectionResetError:
        pass


def test_sockets_are_bounded_and_idle_ones_are_closed(outlet: Outlet) -> None:
    outlet.start_api()
    idle = [socket.create_connection(("127.0.0.1", outlet.port)) for _ in range(MOST + 20)]
    try:
        for one in idle[MOST:]:
            one.settimeout(60)
            assert one.recv(1) == b""
        for one in idle[:5]:
            one.close()
        wait_for(lambda: _answers(outlet), "a free place")
    finally:
        for one in idle:
            one.close()


def _answers(outlet: Outlet) -> bool:
    try:
        return outlet.get("/v1/state").status_code == 200
    except OSError:
        return False
    except Exception as error:
        if type(error).__module__.startswith("httpx"):
            return False
        raise


def test_a_head_without_end_is_cut_off(outlet: Outlet) -> None:
    outlet.start_api()
    with socket.create_connection(("127.0.0.1", outlet.port)) as peer:
        peer.settimeout(60)
        peer.sendall(b"GET /v1/state HTTP/1.1\r\nx: " + b"x" * (2 * LARGEST_HEAD))
        cut_off(peer)
    assert outlet.get("/v1/state").status_code == 200


def lines(count: int, kind: str = "event") -> list[dict[str, object]]:
    return [line_of(Event(str(n), 0.5, 0.0, 1.0, 1)) | {"type": kind} for n in range(count)]


def test_pages_join_without_a_gap() -> None:
    feed = Feed()
    written = lines(KEPT + 100)
    for line in written:
        feed.publish(line)
    seen: list[dict[str, object]] = feed.page(str(written[100]["id"]), 1, None).lines
    while page := feed.page(str(seen[-1]["id"]), 73, None).lines:
        seen += page
    assert seen == written[101:]
    assert not feed.page(str(written[99]["id"]), 10, None).complete


def test_a_late_reader_is_told_how_many_it_missed() -> None:
    async def read() -> list[object]:
        feed = Feed()
        with feed.reader() as reader:
            for line in lines(WAITING + 7):
                feed.publish(line)
            taken = [await reader.take() for _ in range(WAITING)]
            assert None not in taken
            assert await reader.take() is None
            return [reader.missed, feed.dropped, feed.readers]

    assert asyncio.run(read()) == [7, 0, 1]
