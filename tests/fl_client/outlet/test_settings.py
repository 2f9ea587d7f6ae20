"""What [outlet] may not say."""

from __future__ import annotations

import pytest

from common.errors import ConfigError
from common.settings import parse_settings
from fl_client.outlet.settings import OutletSettings

SECRET = {"username": "kitchen", "password_file": "/secret"}


@pytest.mark.parametrize(
    ("mqtt", "words"),
    [
        ({"ca": "ca.pem"}, "ca needs tls"),
        ({"password_file": "/secret"}, "password_file needs username"),
        ({"tls": True, "password_file": "/secret"}, "password_file needs username"),
        (SECRET, "a password needs tls"),
        (SECRET | {"host": "192.0.2.7"}, "a password needs tls"),
        (SECRET | {"host": "localhost.example"}, "a password needs tls"),
        (SECRET | {"ca": "ca.pem"}, "ca needs tls"),
        ({"prefix": "a\n"}, "'mqtt.prefix'"),
        ({"prefix": "a/b\u0085"}, "'mqtt.prefix'"),
        ({"prefix": "$SYS/a"}, "'mqtt.prefix'"),
        ({"discovery_prefix": "a\0"}, "'mqtt.discovery_prefix'"),
    ],
)
def test_what_a_broker_may_not_be_told(mqtt: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match="FA-6003") as caught:
        parse_settings(OutletSettings, {"mqtt": {"host": "broker.example"} | mqtt}, "device.toml")
    assert words in caught.value.happened


@pytest.mark.parametrize(
    "mqtt",
    [
        {"username": "kitchen"},
        SECRET | {"tls": True},
        SECRET | {"tls": True, "ca": "ca.pem"},
        SECRET | {"host": "localhost"},
        SECRET | {"host": "127.0.0.1"},
        SECRET | {"host": "::1"},
        {"prefix": "haus/k\xfcche $1"},
    ],
)
def test_what_a_broker_may_be_told(mqtt: dict[str, object]) -> None:
    parse_settings(OutletSettings, {"mqtt": {"host": "broker.example"} | mqtt}, "device.toml")


def test_an_argument_that_no_program_can_be_given() -> None:
    with pytest.raises(ConfigError, match="FA-6003"):
        parse_settings(OutletSettings, {"on_event": ["say", "a\0b"]}, "device.toml")
    assert parse_settings(OutletSettings, {"on_event": ["say", "a\nb", ""]}, "device.toml").wanted
