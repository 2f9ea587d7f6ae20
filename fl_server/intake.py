"""Who sent an answer, and what it says: every check on the way from bytes to an `Answer`, cheapest first.

Nothing is decrypted before it is known who sent it and that it belongs to this plan, and nothing is allocated
on the word of a sender: what is not exactly as long as it says is refused first of all.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import Protocol

from common.errors import ProtocolError
from common.protocol.answer import LARGEST_NOTE, Answer, Refusal, Report, decode_answer
from common.protocol.plan import Plan
from common.protocol.tensors import Schema, encoded_size
from common.security.envelope import LARGEST_OVERHEAD, Binding, Envelope, open_envelope, parse_envelope
from common.security.sealing import OpeningKey
from fl_server.senders import Sender, Senders

NO_PLACE = (bytes(8), 0, bytes(32))
"""Run, round and base that a device names which trusted nothing in the plan: it can only refuse."""


@dataclass(frozen=True)
class Received:
    """An answer whose sender is known.

    Args:
        sender: who sent it; None for a refusal whose sender proved nothing (`BareIntake`).
        digest: names the bytes that came, hexadecimal.
    """

    sender: Sender | None
    answer: Answer | Refusal
    digest: str


class Known(Protocol):
    """Whoever knows which devices there are."""

    def active(self, device: str) -> Sender:
        """As `Senders.active`."""
        ...


class Intake(Protocol):
    """Takes in the answers to one plan."""

    def read(self, data: bytes | memoryview, device: str) -> Received | None:
        """Check `data` and read it. None: this device has sent the very same before, and it changes nothing.

        Args:
            device: id of the device that was asked; empty if that is not known.

        Raises:
            ProtocolError: FA-3001..FA-3004, FA-3006, FA-3007, FA-3020..FA-3024, FA-3050..FA-3058.
            CoordinatorError: FA-5048, FA-5050, FA-5052, FA-5053, the device may not take part now.
            StorageError: FA-8001.
        """
        ...

    def counters(self) -> dict[str, int]:
        """By device, the counter of the envelope that was taken in; it must not be accepted again."""
        ...


@dataclass(frozen=True)
class _Taken:
    """What a device has sent already in answer to this plan."""

    digest: str
    counter: int = 0


class SealedIntake:
    """Takes in envelopes (`common.security.envelope`).

    Args:
        key: that `plan` asks to seal to.
        order: `plan` as it was sent.
        schema: of the tensors that a training brings; an evaluation brings none.
    """

    def __init__(self, senders: Senders, key: OpeningKey, plan: Plan, order: bytes, schema: Schema) -> None:
        self._senders, self._key, self._plan, self._schema = senders, key, plan, schema
        self._limit = _largest_payload(plan, schema) + LARGEST_OVERHEAD
        self._place = bytes.fromhex(plan.run), plan.round, bytes.fromhex(plan.base)
        self._order_digest = hashlib.sha256(order).digest()
        self._taken: dict[str, _Taken] = {}

    def read(self, data: bytes | memoryview, device: str) -> Received | None:
        envelope = parse_envelope(data, self._limit)
        binding, name = envelope.binding, envelope.binding.device.hex()
        if name != device:
            raise ProtocolError(
                "FA-3050", "The answer names another device than the one that was asked.", _ENROL
            )
        sender = self._senders.active(device)
        self._check_recipient(envelope)
        self._check_binding(binding)
        earlier = self._taken.get(device)
        if earlier is not None and earlier.digest == envelope.digest:
            return None
        self._check_counter(binding.counter, max(sender.counter, earlier.counter if earlier else 0))
        if earlier is not None:
            raise _answered_already()
        payload = open_envelope(envelope, sender.identity, self._key)
        self._taken[device] = _Taken(envelope.digest, binding.counter)
        answer = decode_answer(payload, self._schema)
        if isinstance(answer, Answer):
            self._check_says_the_same(answer.report, binding)
        return Received(sender, answer, envelope.digest)

    def counters(self) -> dict[str, int]:
        return {device: taken.counter for device, taken in self._taken.items()}

    def _check_recipient(self, envelope: Envelope) -> None:
        wanted = self._key.public
        if envelope.suite != wanted.suite:
            said = f"The answer is sealed with {envelope.suite.name}, the plan asks for {wanted.suite.name}."
            raise ProtocolError("FA-3051", said, _UPDATE)
        if envelope.recipient != wanted.id:
            raise ProtocolError(
                "FA-3024", "The answer is sealed to another key than the plan names.", _RESTART
            )

    def _check_binding(self, binding: Binding) -> None:
        run, number, base = self._place
        if _place(binding) not in (self._place, NO_PLACE):
            if binding.run != run:
                raise ProtocolError("FA-3052", "The answer belongs to another run.", _RESTART)
            if binding.round != number:
                raise ProtocolError("FA-3053", f"The answer belongs to round {binding.round}.", _RESTART)
            if binding.base != base:
                raise ProtocolError("FA-3055", "The answer was made from another model.", _RESTART)
        if binding.plan != self._order_digest:
            raise ProtocolError("FA-3054", "The answer belongs to another plan.", _RESTART)
        if time.time() > binding.not_after:
            raise ProtocolError("FA-3056", "The answer is void by now.", _RESTART)

    def _check_counter(self, counter: int, highest: int) -> None:
        if counter <= highest:
            raise ProtocolError(
                "FA-3057",
                f"The answer's counter is {counter}, and {highest} has been used.",
                "If the device was restored from a backup, enrol it anew in another folder.",
            )

    def _check_says_the_same(self, report: Report, binding: Binding) -> None:
        if _place(binding) == NO_PLACE:
            raise ProtocolError("FA-3052", "The answer belongs to no run.", _RESTART)
        if report.device != binding.device.hex():
            raise ProtocolError("FA-3058", "The report names another device than its envelope.", _UPDATE)
        _check_report(report, self._plan)


class BareIntake:
    """Takes in answers as they are, neither sealed nor signed: for --insecure-loopback and simulations."""

    def __init__(self, senders: Known, plan: Plan, schema: Schema) -> None:
        self._senders, self._plan, self._schema = senders, plan, schema
        self._limit = _largest_payload(plan, schema)
        self._taken: dict[str, _Taken] = {}

    def read(self, data: bytes | memoryview, device: str) -> Received | None:
        if len(data) > self._limit:
            raise ProtocolError(
                "FA-3022", f"The answer has {len(data)} bytes, {self._limit} are allowed.", _UPDATE
            )
        digest = hashlib.sha256(data).hexdigest()
        answer = decode_answer(data, self._schema)
        if isinstance(answer, Refusal):
            return Received(None, answer, digest)
        sender = self._senders.active(answer.report.device)
        _check_report(answer.report, self._plan)
        earlier = self._taken.setdefault(sender.id, taken := _Taken(digest))
        if earlier is not taken:
            if earlier.digest == digest:
                return None
            raise _answered_already()
        return Received(sender, answer, digest)

    def counters(self) -> dict[str, int]:
        return {}


def _largest_payload(plan: Plan, schema: Schema) -> int:
    tensors = encoded_size(schema) if plan.kind == "train" else 0
    return _HEAD_BYTES + LARGEST_NOTE + tensors


def _place(binding: Binding) -> tuple[bytes, int, bytes]:
    return binding.run, binding.round, binding.base


def _check_report(report: Report, plan: Plan) -> None:
    said = (report.run, report.round, report.kind, report.base)
    if said != (plan.run, plan.round, plan.kind, plan.base):
        raise ProtocolError("FA-3006", "The answer belongs to another plan.", _RESTART)
    if report.kind == "evaluate" and report.correct > report.clips:
        raise ProtocolError("FA-3004", "More clips were right than evaluated.", _UPDATE)


def _answered_already() -> ProtocolError:
    return ProtocolError(
        "FA-3007", "This device has answered already.", "Give every device its own identity: enrol it."
    )


_HEAD_BYTES = 5
"""Of an answer, before its note."""

_ENROL = "Enrol the device anew; if it stays, somebody poses as another device: revoke it."
_RESTART = "Nothing, if it happens once; else restart the device."
_UPDATE = "Update the device and the coordinator to the same version."
