"""Feedback through a broker: only where the owner allows it, bounded, checked, and answered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psutil
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from fl_client.outlet import inbox as module
from fl_client.outlet.bounded_client import LARGEST_PACKET, BoundedClient
from fl_client.outlet.inbox import Inbox
from fl_client.outlet.said import LARGEST
from tests.fl_client.outlet.conftest import Outlet
from tests.fl_client.outlet.made_broker import MadeBroker
from tests.fl_client.outlet.test_broker import BASE, MOSQUITTO, Mosquitto, mqtt
from tests.fl_client.outlet.test_feedback_route import keep, prepare
from tests.processes import wait_for

TOPIC = f"{BASE}/feedback"
RIGHT = json.dumps({"event": "last", "verdict": "right"}).encode()


def start(outlet: Outlet, broker: MadeBroker) -> None:
    prepare(outlet.home)
    outlet.start(mqtt=mqtt(broker, feedback=True))
    wait_for(lambda: bool(broker.subscribed), "the subscription")
    assert broker.subscribed == [TOPIC]


def answers(broker: MadeBroker) -> list[dict[str, Any]]:
    return [json.loads(payload) for payload in broker.on(f"{TOPIC}/result")]


def test_an_event_is_judged(outlet: Outlet, broker: MadeBroker) -> None:
    start(outlet, broker)
    event = keep(outlet)
    broker.say(TOPIC, json.dumps({"event": "last", "verdict": "no", "speaker": "anna"}).encode())
    wait_for(lambda: bool(answers(broker)), "the answer")
    assert answers(broker) == [
        {"event": event, "heard": "yes", "verdict": "no", "label": "no", "task": "main"}
    ]
    assert len(list(outlet.home.clips.glob(f"no/anna_*_event-{event}.flac"))) == 1
    (one,) = [one for one in broker.published if one.topic == f"{TOPIC}/result"]
    assert not one.retained
    outlet.wait(mqtt_feedback=1, mqtt_feedback_left_out=0)


def test_without_leave_nothing_is_asked_for_and_nothing_is_taken(outlet: Outlet, broker: MadeBroker) -> None:
    prepare(outlet.home)
    outlet.start(mqtt=mqtt(broker))
    event = keep(outlet)
    wait_for(lambda: bool(broker.on(f"{BASE}/events")), "the event")
    broker.say(TOPIC, RIGHT)  # as a broker may that does what it likes
    outlet.tell("no")
    wait_for(lambda: len(broker.on(f"{BASE}/events")) == 2, "what comes after it")
    assert outlet.end() == 0
    assert broker.subscribed == answers(broker) == []
    assert not list(outlet.home.clips.glob(f"*/*{event}*"))


def test_the_last_event_is_that_of_when_it_was_said(outlet: Outlet, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(outlet.home)
    outlet.start()
    event = keep(outlet)
    monkeypatch.setattr(module, "LAST_SECONDS", 0.0)
    told: list[dict[str, object]] = []
    with Inbox(outlet.home, told.append) as inbox:
        inbox.offer(RIGHT)
        inbox.offer(json.dumps({"event": event, "verdict": "right"}).encode())
        wait_for(lambda: len(told) == 2, "both answers")
    assert told[0]["error"] == "FA-4239"
    assert "had to wait" in str(told[0]["happened"])
    assert told[1]["label"] == "yes"


@pytest.mark.parametrize(("quality", "is_taken"), [(0, True), (1, True), (2, False)])
def test_no_message_is_kept_until_the_broker_lets_go_of_it(quality: int, *, is_taken: bool) -> None:
    client = BoundedClient(CallbackAPIVersion.VERSION2)
    body = b"\0\1a" + (b"\0\7" if quality else b"") + b"{}"
    client._in_packet |= {"command": 0x30 | quality << 1, "packet": bytearray(body)}
    assert (client._handle_publish() == MQTTErrorCode.MQTT_ERR_PROTOCOL) is not is_taken
    assert not client._in_messages


def test_what_cannot_be_judged_is_answered_in_words(outlet: Outlet, broker: MadeBroker) -> None:
    start(outlet, broker)
    broker.say(TOPIC, RIGHT)
    wait_for(lambda: len(answers(broker)) == 1, "the answer")
    keep(outlet)
    broker.say(TOPIC, json.dumps({"event": "last", "verdict": "yess"}).encode())
    wait_for(lambda: len(answers(broker)) == 2, "the second answer")
    none, unknown = answers(broker)
    assert (none["error"], none["event"], none["verdict"]) == ("FA-4251", "last", "right")
    assert (unknown["error"], unknown["verdict"]) == ("FA-4252", "yess")
    assert all(set(one) == {"event", "verdict", "error", "happened", "remedy"} for one in (none, unknown))
    assert not outlet.home.clips.exists()


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"right",
        b"\xff\xfe",
        b"[" * 1000,
        b'{"event": "last"}',
        b'{"event": "last", "verdict": ["right"]}',
        b'{"event": "last", "verdict": "right", "home": "/"}',
        b'{"event": "last", "verdict": "' + b"x" * 81 + b'"}',
        RIGHT + b" " * LARGEST,
    ],
)
def test_what_is_no_feedback(payload: bytes, tmp_path: Path) -> None:
    told: list[dict[str, object]] = []
    home = Outlet(tmp_path / "home").home
    with Inbox(home, told.append) as inbox:
        inbox.offer(payload)
        wait_for(lambda: bool(told), "the answer")
        wait_for(lambda: inbox.report()["mqtt_feedback"] == 1, "the count")
    (answer,) = told
    assert answer["error"] == "FA-4239"
    assert len(json.dumps(answer)) < 400
    assert list(home.root.iterdir()) == []


def test_what_is_retained_is_not_taken(outlet: Outlet, broker: MadeBroker) -> None:
    start(outlet, broker)
    keep(outlet)
    broker.say(TOPIC, RIGHT, retained=True)
    broker.say(TOPIC, b"{}")
    wait_for(lambda: bool(answers(broker)), "the answer to what came after it")
    assert [one["error"] for one in answers(broker)] == ["FA-4239"]
    assert "is not taken" in outlet.errors.read_text()


def test_more_than_can_wait_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING", 3)
    inbox = Inbox(Outlet(tmp_path / "home").home, lambda _: None)
    for _ in range(5):  # nobody works yet
        inbox.offer(RIGHT)
    with inbox:
        wait_for(lambda: inbox.report() == {"mqtt_feedback": 3, "mqtt_feedback_left_out": 2}, "the counts")


def test_a_packet_without_end_is_not_read(outlet: Outlet, broker: MadeBroker) -> None:
    start(outlet, broker)
    assert outlet.process is not None
    before = psutil.Process(outlet.process.pid).memory_info().rss
    broker.say(TOPIC, b"x" * 100, announced=200 << 20)
    wait_for(lambda: len(broker.sessions) == 2, "another connection")
    wait_for(lambda: broker.subscribed == [TOPIC] * 2, "another subscription")
    assert psutil.Process(outlet.process.pid).memory_info().rss < before + (50 << 20)
    assert "which was not read" in outlet.errors.read_text()
    # It goes on as before.
    broker.say(TOPIC, RIGHT.ljust(LARGEST_PACKET - 100))
    wait_for(lambda: bool(answers(broker)), "the answer")
    assert answers(broker)[0]["error"] == "FA-4239"


def test_a_broker_that_grants_no_subscription_is_told_of(outlet: Outlet, broker: MadeBroker) -> None:
    broker.mute = True
    start(outlet, broker)
    wait_for(lambda: "lets us hear no feedback" in outlet.errors.read_text(), "the words")
    outlet.wait(mqtt_connected=True)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_inbox_that_has_ended_by_a_fault_says_so(tmp_path: Path) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError

    def has_ended() -> bool:
        try:
            inbox.report()
        except RuntimeError:
            return True
        return False

    with Inbox(Outlet(tmp_path / "home").home, fail) as inbox:
        inbox.offer(b"")
        wait_for(has_ended, "the fault")


@pytest.mark.skipif(
    MOSQUITTO is None, reason="no Mosquitto: `apt install mosquitto` to test against a real one"
)
def test_through_mosquitto(outlet: Outlet, tmp_path: Path) -> None:
    real = Mosquitto(tmp_path)
    real.start()
    prepare(outlet.home)
    try:
        outlet.start(
            mqtt={
                "host": "localhost", "port": real.port, "tls": True, "ca": str(real.ca),
                "username": "kitchen", "password_file": str(real.secret), "feedback": True,
            }
        )  # fmt: skip
        outlet.wait(mqtt_connected=True)
        ear = real.listen()
        wait_for(lambda: bool(real.on(f"{BASE}/availability")), "what is retained")
        event = keep(outlet)
        wait_for(lambda: bool(real.on(f"{BASE}/events")), "the event")
        ear.publish(TOPIC, json.dumps({"event": event, "verdict": "right"}), qos=1)
        wait_for(lambda: bool(real.on(f"{TOPIC}/result")), "the answer")
        ear.loop_stop()
    finally:
        real.stop()
    (answer,) = map(json.loads, real.on(f"{TOPIC}/result"))
    assert (answer["event"], answer["label"]) == (event, "yes")
    assert list(outlet.home.clips.glob(f"yes/*{event}.flac"))
