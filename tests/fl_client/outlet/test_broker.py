"""MQTT on the wire: what a broker is told, and what happens when it goes and comes."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jinja2
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from common.security.certificates import issue_tls, make_root
from fl_client.home import DeviceHome
from fl_client.outlet import broker as module
from fl_client.outlet.broker import Broker
from fl_client.outlet.discovery import unique_id
from fl_client.outlet.settings import MqttSettings
from fl_client.settings import DeviceSettings
from tests.fl_client.outlet.conftest import Outlet
from tests.fl_client.outlet.made_broker import MadeBroker, Published
from tests.processes import free_port, wait_for

BASE = "fedaudio/kitchen"
IDENTITY = unique_id("kitchen", "0" * 64)
ENTITIES = {
    f"homeassistant/{kind}/{IDENTITY}/{key}/config"
    for kind, key in (
        ("event", "heard"),
        ("sensor", "keyword"),
        ("sensor", "laeq"),
        ("sensor", "version"),
        ("binary_sensor", "listening"),
    )
}


def mqtt(broker: MadeBroker, **more: object) -> dict[str, object]:
    return {"host": "127.0.0.1", "port": broker.port, **more}


@contextmanager
def connected(broker: MadeBroker, home: Path, **more: object) -> Iterator[Broker]:
    """A broker's peer in this process, for the device "kitchen"."""
    settings = DeviceSettings(name="kitchen", server="127.0.0.1:9", coordinator="0" * 64)
    with Broker(MqttSettings.model_validate(mqtt(broker, **more)), DeviceHome(home), settings, ()) as out:
        yield out


def labels(broker: MadeBroker) -> list[str]:
    return [json.loads(payload)["label"] for payload in broker.on(f"{BASE}/events")]


def test_what_a_broker_is_told(outlet: Outlet, broker: MadeBroker) -> None:
    outlet.tell("before")
    outlet.home.listener_status.write_text(json.dumps({"version": 7}))
    outlet.start(mqtt=mqtt(broker))
    wait_for(lambda: bool(broker.on(f"{BASE}/availability")), "the connection")
    outlet.tell("now")
    wait_for(lambda: labels(broker) == ["now"], "the event")

    def last_state() -> dict[str, Any]:
        state: dict[str, Any] = json.loads(broker.on(f"{BASE}/state")[-1])
        return state

    wait_for(lambda: last_state()["event"]["label"] == "now", "the state")
    assert (last_state()["listening"], last_state()["version"]) == (True, 7)
    (session,) = broker.sessions
    assert session.will == Published(f"{BASE}/availability", b"offline", 1, True)
    assert (session.client, session.username, session.password) == (IDENTITY, None, None)
    # Only events wait for a broker; the rest is told anew at each connection.
    assert all(one.quality == (one.topic == f"{BASE}/events") for one in broker.published)
    assert all(one.retained == (one.topic != f"{BASE}/events") for one in broker.published)
    assert {one.topic for one in broker.published if "/config" in one.topic} == ENTITIES
    wait_for(lambda: outlet.report["mqtt_waiting"] == 0, "all acknowledgements")
    assert outlet.report["mqtt_connected"]
    # The listener ends: its report grows old.
    os.utime(outlet.home.listener_status, (0, 0))
    wait_for(lambda: last_state()["listening"] is False, "the end of listening")
    assert outlet.end() == 0
    assert broker.on(f"{BASE}/availability") == [b"online", b"offline"]


def test_what_a_broker_is_told_of_several_tasks(outlet: Outlet, broker: MadeBroker) -> None:
    outlet.tasks = {"scene": "../scene"}
    outlet.home.listener_status.write_text(json.dumps({"version": 7, "tasks": {"scene": {"version": 3}}}))
    outlet.start(mqtt=mqtt(broker))
    wait_for(lambda: bool(broker.on(f"{BASE}/availability")), "the connection")
    (config,) = map(json.loads, broker.on(f"homeassistant/sensor/{IDENTITY}/task_scene/config"))
    assert config["unique_id"] == f"{IDENTITY}_task_scene"
    assert len({one.topic for one in broker.published if "/config" in one.topic}) == len(ENTITIES) + 1
    template = jinja2.Environment(autoescape=False).from_string(config["value_template"])  # noqa: S701

    def shown() -> str:
        return template.render(value_json=json.loads(broker.on(f"{BASE}/state")[-1]))

    assert shown() == "None"
    outlet.tell("rain", "scene")
    outlet.tell("yes")
    wait_for(lambda: shown() == "rain", "the state of the scene")
    wait_for(lambda: json.loads(broker.on(f"{BASE}/state")[-1])["event"] is not None, "that of the words")
    state = json.loads(broker.on(f"{BASE}/state")[-1])
    assert (state["version"], state["event"]["label"]) == (7, "yes")
    assert (state["tasks"]["scene"]["version"], state["tasks"]["scene"]["event"]["label"]) == (3, "rain")
    assert [json.loads(one)["task"] for one in broker.on(f"{BASE}/events")] == ["scene", "main"]


def test_the_broker_speaks_for_an_outlet_that_is_killed(outlet: Outlet, broker: MadeBroker) -> None:
    outlet.start(mqtt=mqtt(broker))
    wait_for(lambda: bool(broker.on(f"{BASE}/availability")), "the connection")
    assert outlet.process is not None
    outlet.process.send_signal(signal.SIGKILL)
    wait_for(lambda: broker.on(f"{BASE}/availability") == [b"online", b"offline"], "the will")


def test_events_wait_for_a_broker_that_is_away(outlet: Outlet, broker: MadeBroker) -> None:
    broker.close()
    outlet.start(mqtt=mqtt(broker))
    outlet.tell("first")
    outlet.wait(messages=1, mqtt_connected=False)
    broker.open()
    wait_for(lambda: labels(broker) == ["first"], "the first event")
    wait_for(lambda: outlet.report["mqtt_waiting"] == 0, "all acknowledgements")
    broker.close()
    outlet.wait(mqtt_connected=False)
    outlet.tell("second")
    outlet.wait(messages=2)
    broker.open()
    wait_for(lambda: labels(broker) == ["first", "second"], "the second event")
    # What is retained may be gone with the broker: it is told anew.
    assert broker.on(f"{BASE}/availability").count(b"online") == 2
    assert len(broker.on(f"homeassistant/sensor/{IDENTITY}/laeq/config")) == 2
    assert "cannot be reached" in outlet.errors.read_text()


def test_a_broker_that_acknowledges_nothing_fills_no_memory(
    broker: MadeBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAITING", 20)
    broker.deaf = True
    with connected(broker, tmp_path) as out:
        wait_for(lambda: bool(out.report()["mqtt_connected"]), "the connection")
        for number in range(30):
            out({"type": "event", "id": str(number), "label": "yes"})
        report = out.report()
    assert (report["mqtt_waiting"], report["mqtt_published"]) == (20, 0)
    assert report["mqtt_left_out"] == 10


@pytest.mark.parametrize(("calm", "times"), [(60.0, 1), (0.0, 2)])
def test_a_broker_that_comes_and_goes_is_told_of_once_until_it_has_stayed(
    broker: MadeBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    calm: float, times: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(module, "CALM_SECONDS", calm)
    caplog.set_level(logging.INFO)
    broker.flaps = True
    with connected(broker, tmp_path):
        wait_for(lambda: len(broker.sessions) >= 3, "the third connection")
        said = caplog.text
    assert min(times, said.count("connected to the broker")) == times
    assert min(times, said.count("the broker was lost")) == times
    if times == 1:
        assert said.count("connected to the broker") == said.count("the broker was lost") == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("part", ["_state", "_on_connect"])
def test_a_broker_thread_that_has_ended_by_a_fault_says_so(
    broker: MadeBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    def fail(*_: object) -> bytes:
        raise ZeroDivisionError

    monkeypatch.setattr(Broker, part, fail)
    with connected(broker, tmp_path) as out:

        def has_ended() -> bool:
            try:
                out.report()
            except RuntimeError:
                return True
            return False

        wait_for(has_ended, "the fault")


def test_a_password_comes_from_its_file_and_a_refusal_is_said_once(
    outlet: Outlet, broker: MadeBroker, tmp_path: Path
) -> None:
    broker.refuses = True
    secret = tmp_path / "password"
    secret.touch(mode=0o600)
    secret.write_text("open sesame\n")
    outlet.start(mqtt=mqtt(broker, username="kitchen", password_file=str(secret)))
    wait_for(lambda: len(broker.sessions) >= 2, "a second try")
    assert (broker.sessions[0].username, broker.sessions[0].password) == ("kitchen", "open sesame")
    said = outlet.errors.read_text()
    assert said.count("refuses us") == 1
    assert "sesame" not in said
    assert broker.published == []


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"username": "u", "password_file": "/no/such"}, "FA-4234"),
        ({"tls": True, "ca": "/no/such"}, "FA-4237"),
        ({"tls": True, "ca": __file__}, "FA-4237"),
        ({"prefix": "a/#"}, "FA-6003"),
        ({"prefix": "a//b"}, "FA-6003"),
        ({"port": 0}, "FA-6003"),
    ],
)
def test_what_cannot_work_is_said_at_once(outlet: Outlet, more: dict[str, object], code: str) -> None:
    process = outlet.spawn(mqtt={"host": "127.0.0.1", **more})
    assert process.wait(30) in {2, 5}
    assert code in outlet.errors.read_text()


def test_without_the_library_it_is_said_what_to_install(
    broker: MadeBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "paho.mqtt.enums", None)
    with pytest.raises(module.DeviceError, match="FA-4233") as caught, connected(broker, tmp_path):
        pass
    assert "fedaudio[mqtt]" in caught.value.remedy


MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")


class Mosquitto:
    """A real broker that asks for a password and speaks TLS, and a client that hears all it passes on."""

    def __init__(self, folder: Path) -> None:
        self.port, self._folder = free_port(), folder
        self.secret, self.ca = folder / "password", folder / "ca.pem"
        root, root_key = make_root()
        certificate, key = issue_tls(root, root_key, ["localhost"])
        plain = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        for path, data in (
            (self.secret, b"open sesame"),
            (self.ca, root.public_bytes(Encoding.PEM)),
            (folder / "broker.pem", certificate.public_bytes(Encoding.PEM)),
            (folder / "broker.key", key.private_bytes(*plain)),
            (folder / "passwords", b"kitchen:open sesame\n"),
        ):
            path.touch(mode=0o600)
            path.write_bytes(data)
        subprocess.run([shutil.which("mosquitto_passwd") or "", "-U", folder / "passwords"], check=True)
        (folder / "mosquitto.conf").write_text(
            f"user root\nlistener {self.port} 127.0.0.1\nallow_anonymous false\n"
            f"password_file {folder}/passwords\ncertfile {folder}/broker.pem\nkeyfile {folder}/broker.key\n"
        )
        self.heard: list[tuple[str, bytes, bool]] = []

    def start(self) -> None:
        assert MOSQUITTO is not None
        configuration = str(self._folder / "mosquitto.conf")
        with (self._folder / "mosquitto.log").open("a") as log:
            self._process = subprocess.Popen([MOSQUITTO, "-c", configuration], stderr=log, stdout=log)

        def ready() -> bool:
            with socket.socket() as peer:
                return peer.connect_ex(("127.0.0.1", self.port)) == 0

        wait_for(ready, "Mosquitto")

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def listen(self) -> Client:
        """Hear what is retained, and all from now on."""
        client = Client(CallbackAPIVersion.VERSION2)
        client.username_pw_set("kitchen", "open sesame")
        client.tls_set(str(self.ca))
        client.on_message = lambda _, __, one: self.heard.append((one.topic, one.payload, one.retain))
        client.on_connect = lambda *_: client.subscribe("#", qos=1)
        client.connect("localhost", self.port)
        client.loop_start()
        return client

    def on(self, topic: str) -> list[bytes]:
        return [payload for where, payload, _ in self.heard if where == topic]


@pytest.mark.skipif(
    MOSQUITTO is None, reason="no Mosquitto: `apt install mosquitto` to test against a real one"
)
def test_mosquitto_over_tls_with_a_password(outlet: Outlet, tmp_path: Path) -> None:
    real = Mosquitto(tmp_path)
    real.start()
    settings = {
        "host": "localhost", "port": real.port, "tls": True, "ca": str(real.ca),
        "username": "kitchen", "password_file": str(real.secret),
    }  # fmt: skip
    try:
        outlet.start(mqtt=settings)
        outlet.wait(mqtt_connected=True, mqtt_waiting=0)
        ear = real.listen()
        wait_for(lambda: real.on(f"{BASE}/availability") == [b"online"], "what is retained")
        assert {where for where, _, retained in real.heard if "/config" in where and retained} == ENTITIES
        outlet.tell("now")
        wait_for(lambda: bool(real.on(f"{BASE}/events")), "the event")
        ear.loop_stop()
        # The broker goes, comes back with an empty memory, and is told all again.
        real.stop()
        outlet.wait(mqtt_connected=False)
        outlet.tell("while it was away")
        outlet.wait(messages=2)
        real.heard.clear()
        real.start()
        ear = real.listen()
        wait_for(lambda: bool(real.on(f"{BASE}/availability")), "the second connection")
        outlet.wait(mqtt_waiting=0)
        assert outlet.process is not None
        outlet.process.kill()
        wait_for(lambda: real.on(f"{BASE}/availability")[-1] == b"offline", "the will")
        ear.loop_stop()
    finally:
        real.stop()
    assert {where for where, _, _ in real.heard if "/config" in where} == ENTITIES


@pytest.mark.skipif(
    MOSQUITTO is None, reason="no Mosquitto: `apt install mosquitto` to test against a real one"
)
def test_a_broker_of_another_authority_is_not_spoken_to(outlet: Outlet, tmp_path: Path) -> None:
    real = Mosquitto(tmp_path)
    real.start()
    try:
        outlet.start(mqtt={"host": "localhost", "port": real.port, "tls": True})
        wait_for(lambda: "CERTIFICATE_VERIFY_FAILED" in outlet.errors.read_text(), "the refusal")
        assert not outlet.report["mqtt_connected"]
    finally:
        real.stop()
