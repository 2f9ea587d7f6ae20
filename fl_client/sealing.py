"""The two sides of an order that need keys: reading the plan, and sealing the answer to it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import timedelta
from typing import Protocol

from common.errors import DeviceError, ProtocolError
from common.protocol.plan import Plan, open_plan, parse_plan
from common.security.envelope import Binding, seal
from common.security.sealing import SealingKey
from common.security.trust import Trust
from fl_client.connection import TOLERANCE, Clock
from fl_client.identity import Identity

LONGEST_LIFE = timedelta(days=1)
"""No plan gives devices longer to answer, so one that expires later was made by another clock."""

NOTHING = bytes(8)
"""The run that a refusal names when the plan cannot be trusted."""


class KeyRing(Protocol):
    """What `KnownTrust` is to an outlet."""

    def current(self) -> Trust:
        """What is trusted, without asking."""

    def newest(self) -> Trust:
        """What is trusted, after asking."""


class Outlet(Protocol):
    """Between a device and what travels."""

    def open(self, data: bytes) -> Plan:
        """Read a plan and check that it is meant for this device, now.

        Raises:
            ProtocolError, DeviceError: it is not; nothing it says may be believed.
        """

    def signer(self) -> bytes:
        """Public key that answers are signed with; an answer under another is of no use to anybody."""

    def seal(self, payload: bytes, data: bytes, plan: Plan | None, counter: int) -> bytes:
        """An answer as it travels.

        Args:
            data: the plan as received.
            plan: the same, opened; None if it could not be.
            counter: higher than any before.
        """


class SealedOutlet:
    """Plans signed by the coordinator, answers signed by the device and sealed to the coordinator.

    Args:
        identity: the device's, which may change between two orders.
    """

    def __init__(self, identity: Callable[[], Identity], trust: KeyRing, clock: Clock) -> None:
        self._identity, self._trust, self._clock = identity, trust, clock

    def open(self, data: bytes) -> Plan:
        """As `Outlet`.

        Raises:
            ProtocolError: FA-3005 malformed, FA-3016..FA-3018 its signature.
            DeviceError: FA-4020 another coordinator's, FA-4021 expired, FA-4023 it wants answers sealed to a
                key that is not trusted, FA-4024 nothing is trusted any more.
        """
        plan = self._verified(data)
        check_coordinator(plan, self._identity().coordinator)
        left = plan.expires - self._clock.now().timestamp()
        slack = TOLERANCE.total_seconds()
        if not -slack <= left <= LONGEST_LIFE.total_seconds() + slack:
            raise DeviceError(
                "FA-4021",
                "The plan has expired." if left < 0 else "The plan expires later than any plan does.",
                "Set this machine's clock (timedatectl set-ntp true); if it is right, somebody replays it.",
            )
        self._recipient(plan)
        return plan

    def signer(self) -> bytes:
        """As `Outlet`."""
        return self._identity().certificate.identity

    def seal(self, payload: bytes, data: bytes, plan: Plan | None, counter: int) -> bytes:
        """As `Outlet`."""
        identity = self._identity()
        binding = Binding(
            run=NOTHING if plan is None else bytes.fromhex(plan.run),
            round=0 if plan is None else plan.round,
            device=bytes.fromhex(identity.device),
            counter=counter,
            plan=hashlib.sha256(data).digest(),
            base=bytes(32) if plan is None else bytes.fromhex(plan.base),
            not_after=int((self._clock.now() + TOLERANCE).timestamp()) if plan is None else plan.expires,
        )
        recipient = self._trust.newest().envelope[0].sealing_key() if plan is None else self._recipient(plan)
        return seal(payload, binding, identity.signing_key, recipient)

    def _verified(self, data: bytes) -> Plan:
        try:
            return open_plan(data, self._trust.current().plan_keys())
        except ProtocolError as error:
            if error.code != "FA-3017":
                raise
        # The coordinator may have a new plan key, which a newer trust statement names.
        return open_plan(data, self._trust.newest().plan_keys())

    def _recipient(self, plan: Plan) -> SealingKey:
        name = bytes.fromhex(plan.recipient)
        key = self._trust.current().envelope_key(name) or self._trust.newest().envelope_key(name)
        if key is None:
            raise DeviceError(
                "FA-4023",
                "The plan wants its answer sealed to a key that the coordinator's root does not vouch for.",
                "Ask the coordinator's operator; somebody may want to read what is not for them.",
            )
        return key


class BareOutlet:
    """Plans and answers as they are, on one machine: for development, and to measure what security costs."""

    def __init__(self, coordinator: str) -> None:
        self._coordinator = coordinator

    def open(self, data: bytes) -> Plan:
        """As `Outlet`.

        Raises:
            ProtocolError: FA-3005 malformed.
            DeviceError: FA-4020 another coordinator's.
        """
        plan = parse_plan(data)
        check_coordinator(plan, self._coordinator)
        return plan

    def signer(self) -> bytes:
        """As `Outlet`: nobody signs."""
        return b""

    def seal(self, payload: bytes, data: bytes, plan: Plan | None, counter: int) -> bytes:
        """As `Outlet`."""
        return payload


def check_coordinator(plan: Plan, coordinator: str) -> None:
    """Return if `plan` names the coordinator that the device is enrolled with.

    Raises:
        DeviceError: FA-4020.
    """
    if plan.coordinator != coordinator:
        raise DeviceError(
            "FA-4020",
            "The plan is another coordinator's.",
            "Enrol the device with that coordinator, in a folder of its own.",
        )
