"""A client for MQTT that no broker can make hold more than it needs."""

from __future__ import annotations

import logging

from paho.mqtt.client import Client
from paho.mqtt.enums import MQTTErrorCode

log = logging.getLogger(__name__)

LARGEST_PACKET = 1 << 12
"""Bytes: an acknowledgement has a few, feedback with its topic no more than this. MQTT allows 256 MB."""


class BoundedClient(Client):
    """Gives up the connection on which a longer packet is announced, before any of it is read."""

    _has_said = False

    def _sock_recv(self, bufsize: int) -> bytes:
        # The library bounds what a broker sends with version 5 of the protocol only, which not every broker
        # speaks, and then by asking for it. It reads a byte at a time up to the length, then all the rest.
        if bufsize > LARGEST_PACKET:
            if not self._has_said:
                self._has_said = True
                log.warning("the broker sent a packet of %d bytes, which was not read", bufsize)
            raise ConnectionAbortedError(f"a packet of {bufsize} bytes")
        return super()._sock_recv(bufsize)

    def _handle_publish(self) -> MQTTErrorCode:
        # Messages of quality 2 are kept until the broker lets go of them. We have asked for none.
        if self._in_packet["command"] & 0x04:
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
        return super()._handle_publish()
