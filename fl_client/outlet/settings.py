"""The [outlet] table of device.toml as a value."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from common.settings import Settings


def _is_address(text: str) -> str:
    ip_address(text)
    return text


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


Address = Annotated[str, AfterValidator(_is_address)]
Port = Annotated[int, Field(ge=1, le=65535)]
Topic = Annotated[str, Field(pattern=r"^[^$+#/\p{Cc}][^+#/\p{Cc}]*(/[^+#/\p{Cc}]+)*$", max_length=128)]
"""Without wildcards, empty levels and control characters; what begins with $ is the broker's own."""

Argument = Annotated[str, Field(pattern=r"^[^\x00]*$")]


class ApiSettings(Settings):
    """The local HTTP and WebSocket API."""

    host: Address = Field("127.0.0.1", description="address to listen on; all but loopback need a token")
    port: Port = Field(8660, description="where the API listens")
    names: tuple[str, ...] = Field(
        (), description="names that callers may use for this machine, beside localhost and `host`"
    )


class MqttSettings(Settings):
    """A broker, told in the way that Home Assistant understands."""

    host: str = Field(min_length=1, description="the broker")
    port: Port = Field(1883, description="of the broker; 8883 is usual with TLS")
    tls: bool = Field(False, description="speak TLS to the broker, and check its certificate and name")
    ca: str | None = Field(None, description="file with the broker's authority; unset: those of the system")
    username: str | None = Field(None, description="at the broker")
    password_file: str | None = Field(
        None, description="file that holds the password and is readable by the device's user alone"
    )
    prefix: Topic = Field("fedaudio", description="begins every topic; the device's name follows")
    discovery_prefix: Topic = Field("homeassistant", description="where Home Assistant looks for devices")
    feedback: bool = Field(
        False, description="take feedback from the broker: from whoever may publish there, so it is off"
    )

    @model_validator(mode="after")
    def _keeps_the_password(self) -> Self:
        if self.ca is not None and not self.tls:
            raise ValueError("ca needs tls = true")
        if self.password_file is None:
            return self
        if self.username is None:
            raise ValueError("password_file needs username")
        if not self.tls and not _is_loopback(self.host):
            raise ValueError("a password needs tls = true: without it, anybody on the way could read it")
        return self


class OutletSettings(Settings):
    """Where messages go beside events.jsonl. Nothing is set: no such process is started."""

    api: ApiSettings | None = Field(None, description="serve the local API; an empty table is enough")
    mqtt: MqttSettings | None = Field(None, description="publish to a broker")
    on_event: tuple[Argument, ...] = Field(
        (), description="program and arguments to run for each event and alarm; never a shell"
    )

    @property
    def wanted(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.api or self.mqtt or self.on_event)
