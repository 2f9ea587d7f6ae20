"""Publishes to an MQTT broker, hears feedback from it, and comes back to it however often it goes away."""

from __future__ import annotations

import json
import logging
import ssl
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from common.errors import DeviceError
from fl_client.home import DeviceHome
from fl_client.outlet.discovery import Topics, discovery, unique_id
from fl_client.outlet.inbox import Inbox
from fl_client.outlet.latest import Latest
from fl_client.outlet.lines import HEARD, Line
from fl_client.outlet.settings import MqttSettings
from fl_client.reports import Report, read_report
from fl_client.secret_file import read_secret
from fl_client.settings import DeviceSettings

if TYPE_CHECKING:
    from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage, MQTTMessageInfo
    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode

log = logging.getLogger(__name__)

WAITING = 1000
"""Events that may wait for the broker; more are left out."""

STATE_SECONDS = 1.0
"""How often the state is looked at; it is published when it has changed."""

LONGEST_PAUSE_SECONDS = 60
AGAIN = f"it is tried again, every {LONGEST_PAUSE_SECONDS} s in the end"
KEEPALIVE_SECONDS = 30
CONNECT_SECONDS = 3.0
GOODBYE_SECONDS = 1.0

CALM_SECONDS = 60.0
"""A connection that lasts so long ends the silence about troubles that were said."""


class Broker:
    """Publishes from `__enter__` to `__exit__`: events at least once each (QoS 1), and they wait for a broker
    that is away; the state at most once (QoS 0), as the newest is told at each connection. Takes feedback, if
    the owner allows it.

    Args:
        home: of the device that listens.
        device: its device.toml.
        before: messages from before, the last of which are part of the state.

    Raises:
        DeviceError: FA-4233, the library for MQTT is missing; FA-4232, FA-4234, the password file;
            FA-4237, the file of the broker's authority.
        StorageError: FA-8001.
    """

    def __init__(
        self,
        settings: MqttSettings,
        home: DeviceHome,
        device: DeviceSettings,
        before: Sequence[Line],
    ) -> None:
        self._settings = settings
        self._topics = Topics(settings.prefix, device.name)
        self._identity = unique_id(device.name, device.coordinator)
        self._listener_status = home.listener_status
        self._tasks = tuple(device.tasks)
        self._latest = Latest(self._tasks, before)
        self._inbox = Inbox(home, self._tell_result) if settings.feedback else None
        self._stop = threading.Event()
        self._published = b""
        self._said: set[str] = set()
        self._online_since: float | None = None
        self._unacknowledged: set[int] = set()
        self._done: deque[int] = deque()
        self._acknowledged = self._left_out = 0
        self._client = self._make_client()

    def __enter__(self) -> Self:
        if self._inbox is not None:
            self._inbox.__enter__()
        self._client.connect_async(self._settings.host, self._settings.port, KEEPALIVE_SECONDS)
        self._client.loop_start()
        self._thread = threading.Thread(target=self._keep_state, name="mqtt-state", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._client.is_connected():
            # Who leaves in good order must say so itself: the broker tells only of those it has lost.
            goodbye = self._retain(self._topics.availability, b"offline")
            with suppress(RuntimeError):
                goodbye.wait_for_publish(GOODBYE_SECONDS)
        self._client.disconnect()
        self._client.loop_stop()
        if self._inbox is not None:
            self._inbox.__exit__()

    def __call__(self, line: Line) -> None:
        """Publish an event or alarm; note every message for the state."""
        self._latest.note(line)
        if line["type"] not in HEARD:
            return
        if self._count_waiting() < WAITING:
            self._unacknowledged.add(self._client.publish(self._topics.events, _json(line), qos=1).mid)
        else:
            self._left_out += 1

    def report(self) -> Report:
        """What was counted; `mqtt_published` are the events that the broker has acknowledged.

        Raises:
            RuntimeError: nothing is published any more.
        """
        network = self._client._thread  # which the library tells in no other way
        if network is None or not (network.is_alive() and self._thread.is_alive()):
            raise RuntimeError("the connection to the broker has ended by a fault")
        waiting = self._count_waiting()
        return {
            "mqtt_connected": self._client.is_connected(),
            "mqtt_published": self._acknowledged,
            "mqtt_waiting": waiting,
            "mqtt_left_out": self._left_out,
            **(self._inbox.report() if self._inbox is not None else {}),
        }

    def _make_client(self) -> Client:
        try:
            from paho.mqtt.enums import CallbackAPIVersion

            from fl_client.outlet.bounded_client import BoundedClient
        except ImportError as error:
            raise DeviceError(
                "FA-4233", "The library for MQTT is missing.", 'Run `pip install "fedaudio[mqtt]"`.'
            ) from error
        client = BoundedClient(CallbackAPIVersion.VERSION2, client_id=self._identity)
        client.will_set(self._topics.availability, b"offline", qos=1, retain=True)
        client.reconnect_delay_set(1, LONGEST_PAUSE_SECONDS)
        client.max_queued_messages_set(0)  # what waits is bounded here, where it is counted
        client.connect_timeout = CONNECT_SECONDS
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        if self._settings.username is not None:
            client.username_pw_set(self._settings.username, _password(self._settings.password_file))
        if self._settings.tls:
            client.tls_set_context(_context(self._settings.ca))
        return client

    def _retain(self, topic: str, payload: bytes) -> MQTTMessageInfo:
        """Publish what the broker is to keep; lost with the connection, after which it is told anew."""
        return self._client.publish(topic, payload, qos=0, retain=True)

    def _count_waiting(self) -> int:
        """Events that the broker has not acknowledged."""
        while self._done:
            number = self._done.popleft()
            if number in self._unacknowledged:
                self._unacknowledged.remove(number)
                self._acknowledged += 1
        return len(self._unacknowledged)

    def _keep_state(self) -> None:
        while not self._stop.wait(STATE_SECONDS):
            state = self._state()
            if self._client.is_connected() and state != self._published:
                self._published = state
                self._retain(self._topics.state, state)

    def _state(self) -> bytes:
        listener = read_report(self._listener_status)
        return _json({
            "listening": listener is not None,
            "version": listener.get("version") if listener else None,
            "event": self._latest.of("event"),
            "level": self._latest.of("level"),
            "tasks": self._latest.of_further_tasks(listener),
        })  # fmt: skip

    def _on_connect(
        self,
        client: Client,
        userdata: object,
        flags: ConnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            self._say(f"the broker refuses us: {reason}; {AGAIN}")
            return
        self._online_since = time.monotonic()
        self._say("connected to the broker", logging.INFO)
        if self._inbox is not None:
            client.subscribe(self._topics.feedback, qos=1)
        prefix = self._settings.discovery_prefix
        for topic, config in discovery(self._topics, self._identity, prefix, self._tasks).items():
            self._retain(topic, _json(config))
        self._retain(self._topics.state, self._state())
        self._retain(self._topics.availability, b"online")

    def _on_connect_fail(self, client: Client, userdata: object) -> None:
        self._say(f"the broker cannot be reached: {sys.exception()}; {AGAIN}")

    def _on_disconnect(
        self,
        client: Client,
        userdata: object,
        flags: DisconnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        if self._online_since is None:
            return
        if time.monotonic() - self._online_since >= CALM_SECONDS:
            self._said.clear()
        self._online_since = None
        if not self._stop.is_set():
            self._say(f"the broker was lost: {reason}; {AGAIN}")

    def _on_publish(
        self, client: Client, userdata: object, number: int, reason: ReasonCode, properties: Properties
    ) -> None:
        # Told of retained messages too; only the thread that publishes events knows which are events.
        self._done.append(number)

    def _on_subscribe(
        self,
        client: Client,
        userdata: object,
        number: int,
        reasons: list[ReasonCode],
        properties: Properties | None,
    ) -> None:
        if any(reason.is_failure for reason in reasons):
            self._say(f"the broker lets us hear no feedback on {self._topics.feedback}")

    def _on_message(self, client: Client, userdata: object, message: MQTTMessage) -> None:
        if message.retain:
            # It would come again at each connection, and mean another event each time if it says "last".
            topic = self._topics.feedback
            self._say(f"feedback that is retained on {topic} is not taken; publish it unretained")
        elif self._inbox is not None:
            self._inbox.offer(bytes(message.payload))

    def _tell_result(self, result: dict[str, object]) -> None:
        self._client.publish(self._topics.feedback_result, _json(result), qos=0)

    def _say(self, news: str, level: int = logging.WARNING) -> None:
        """Each once until a connection has lasted: a broker may come and go every second."""
        if news not in self._said:
            self._said.add(news)
            log.log(level, news)


def _password(file: str | None) -> str | None:
    if file is None:
        return None
    password = read_secret(Path(file))
    if password is None:
        raise DeviceError(
            "FA-4234",
            f"There is no {file}, which should hold the password for the broker.",
            "Write the password into it, with mode 0600, or correct `password_file` in device.toml.",
        )
    return password


def _context(authority: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=authority)
    except OSError as error:
        raise DeviceError(
            "FA-4237",
            f"{authority} is no file with the broker's authority: {error.strerror or error}.",
            "Correct `ca` in device.toml: a file with certificates in PEM form.",
        ) from error


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()
