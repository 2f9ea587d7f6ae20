"""What a device may say to Flower's Fleet API: who it is comes first, then how much, and only then what.

A device is known by its node key, which its certificate names. Nothing of a request's body is read before its
sender has been let in and its length has been counted against what the plan allows.
"""

from __future__ import annotations

import binascii
import logging
import sqlite3
from base64 import b64decode
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.errors import CoordinatorError
from common.security.envelope import LARGEST_OVERHEAD
from fl_server.limits import Bucket, Pace, announced_length, read_body, too_large, too_often
from fl_server.link import (
    KEY_HEADER,
    OLDEST_SECONDS,
    SIGNATURE_HEADER,
    TIME_HEADER,
    YOUNGEST_SECONDS,
    Nodes,
    read_confirmed,
    read_key,
    read_orders,
    read_reply,
    read_wanted,
)
from fl_server.refusal import RefusedError, refusal
from fl_server.registry import unknown
from fl_server.roster import Member, Roster

log = logging.getLogger(__name__)

FLEET = "/v1/fleet/"
SMALL, LARGEST_REQUEST = 64 << 10, 16 << 20
"""Bytes of a request. Flower uploads in parts of 5 MB; nothing larger comes from an honest device."""

LIMITS = {
    "activate-node": SMALL,
    "deactivate-node": SMALL,
    "send-node-heartbeat": SMALL,
    "pull-messages": SMALL,
    "pull-object": SMALL,
    "confirm-message-received": SMALL,
    "push-messages": LARGEST_REQUEST,
    "push-object": LARGEST_REQUEST,
}
"""The part of the Fleet API that devices use, and the largest request of each kind. The rest is 404."""

OPEN_LIMITS = LIMITS | {"register-node": SMALL}
"""The same under --insecure-loopback, where nodes register themselves."""

UPLOADS = ("push-messages", "push-object")

UPLOAD_ROOM = (1 << 20) + LARGEST_OVERHEAD + (64 << 10)
"""Bytes an answer has at most beside tensors as large as the weights: report, envelope, Flower's framing."""

KEPT_ORDERS = 4
"""Orders a device may still answer; it is given one at a time."""

BURST, RATE = 400, 100
"""Requests of one device: at once, and a second. A busy one polls 20 times a second."""

AT_ONCE = 8
"""Requests of one device that are in hand at the same time."""


class Account:
    """What one linked device may still do.

    Args:
        node_key: PEM.
    """

    def __init__(self, node_key: bytes) -> None:
        self.node_key = node_key
        self._bucket = Bucket(BURST, RATE)
        self._in_hand = 0
        self._allowed = self._left = 0
        self._orders: OrderedDict[str, frozenset[str]] = OrderedDict()

    def begin_anew(self) -> None:
        """The device has linked again: what it was asked before is void."""
        self._orders.clear()
        self._allowed = self._left = 0

    def take_order(self, message: str, objects: frozenset[str], upload: int) -> None:
        """The device was given an order, and may send `upload` bytes for it."""
        self._orders[message] = objects
        self._allowed = self._left = upload
        while len(self._orders) > KEPT_ORDERS:
            self._orders.popitem(last=False)

    def was_asked(self, message: str) -> bool:
        """Whether `message` is an order that the device was given."""
        return message in self._orders

    def may_fetch(self, name: str) -> bool:
        """Whether `name` is a part of such an order."""
        return any(name in objects for objects in self._orders.values())

    def count(self, length: int) -> None:
        """Count an upload of `length` bytes; a negative one was not made after all.

        Raises:
            RefusedError: FA-5086, it is more than the order allows, or there is no order.
        """
        if length > self._left:
            raise too_large(f"{length} bytes are more than is left of what this device was asked for.")
        self._left = min(self._left - length, self._allowed)

    @contextmanager
    def request(self) -> Iterator[None]:
        """One request in hand.

        Raises:
            RefusedError: FA-5087, there are too many of them.
        """
        if self._in_hand >= AT_ONCE or not self._bucket.take():
            raise too_often("This device asks too often.")
        self._in_hand += 1
        try:
            yield
        finally:
            self._in_hand -= 1


class Gate:
    """Passes to Flower what devices may say, and all that is not for Flower to our own routes.

    Args:
        superlink: Flower's app.
        own: our routes; for them, what of the Fleet API is not passed does not exist.
        nodes: of `superlink`.
        largest_weights: bytes of the weights that devices are asked to train.
        pace: at which an address may ask what is not for Flower, or be refused.
    """

    def __init__(
        self,
        superlink: ASGIApp,
        own: ASGIApp,
        nodes: Nodes,
        roster: Roster,
        largest_weights: Callable[[], int],
        pace: Pace,
    ) -> None:
        self._superlink = superlink
        self._own = own
        self._nodes = nodes
        self._roster = roster
        self._largest_weights = largest_weights
        self._pace = pace
        self._accounts: dict[bytes, Account] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = kind_of(scope)
        if kind is None:
            await self._in_pace(scope, self._own)(scope, receive, send)
            return
        try:
            await self._handle(kind, scope, receive, send)
        except CoordinatorError as error:
            await self._in_pace(scope, refusal(error))(scope, receive, send)
        except sqlite3.Error as error:
            log.error("the registry cannot be read: %s", error)
            await refusal(unavailable())(scope, receive, send)

    def sweep(self) -> None:
        """Forget the nodes of devices that may no longer take part, whether or not they ask again."""
        for key in list(self._accounts):
            try:
                self._require_member(key, self._roster.find(key))
            except CoordinatorError as error:
                log.info("a device is put out: %s", error)

    def _in_pace(self, scope: Scope, answer: ASGIApp) -> ASGIApp:
        """`answer`, unless too much is asked from where the request comes from."""
        address = scope["client"][0] if scope["client"] else ""
        if self._pace.take(address):
            return answer
        return refusal(too_often("Too many requests come from this network address."))

    async def _handle(self, kind: str, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        if len(headers) != len(scope["headers"]):
            raise malformed("it has a header twice")
        key, member = self._identify(headers)
        self._require_member(key, member)
        account = self._accounts.setdefault(key, Account(key))
        length = announced_length(headers, LIMITS[kind])
        with account.request(), _counted(account, kind, length) as keep:
            body = await read_body(receive, length)
            if body is None:
                return
            # That took its time, in which the device may have been revoked. What follows takes none.
            self._require_member(key, self._roster.find(key))
            self._accounts.setdefault(key, account)
            keep()
            try:
                self._check(kind, member, account, body)
            except ValueError as error:
                raise malformed(str(error)) from error
            if kind == "pull-messages":
                send = self._noting_orders(account, send)
            await pass_on(self._superlink, scope, body, receive, send)

    def _require_member(self, key: bytes, member: Member | None) -> None:
        """Return if `member`, whose node has `key`, may take part; else there is no such node any more.

        Raises:
            CoordinatorError: FA-5050 and those of `Member.check`.
        """
        try:
            if member is None:
                raise unknown()
            member.check()
        except CoordinatorError:
            self._nodes.dismiss(key)
            self._accounts.pop(key, None)
            raise

    def _identify(self, headers: Mapping[bytes, bytes]) -> tuple[bytes, Member]:
        """Whose request it is, which is proven by a signature of the time.

        Raises:
            RefusedError: FA-5080 it is not signed, FA-5081 at another time.
            CoordinatorError: FA-5050, by a key that nobody has.
        """
        try:
            key = b64decode(headers[KEY_HEADER], validate=True)
            signature = b64decode(headers[SIGNATURE_HEADER], validate=True)
            timestamp = headers[TIME_HEADER]
            age = (datetime.now(UTC) - datetime.fromisoformat(timestamp.decode("ascii"))).total_seconds()
            member = self._roster.find(key)
            if member is None:
                raise RefusedError(401, "FA-5050", unknown().happened, unknown().remedy)
            member.node_key.verify(signature, timestamp, ECDSA(hashes.SHA256()))
        except (KeyError, ValueError, TypeError, OverflowError, binascii.Error, InvalidSignature) as error:
            raise RefusedError(
                401,
                "FA-5080",
                "The request is not signed with the device's node key.",
                "Update the device; if it stays, enrol it anew.",
            ) from error
        if not YOUNGEST_SECONDS < age < OLDEST_SECONDS:
            raise RefusedError(
                401,
                "FA-5081",
                f"The request is from another time: by the coordinator's clock it is {age:.0f} s old.",
                "Set the clock of the device; if it is right, tell the coordinator's operator.",
            )
        return key, member

    def _check(self, kind: str, member: Member, account: Account, body: bytes) -> None:
        """Return if the device may say that.

        Raises:
            RefusedError: FA-5082, it speaks for another device or about what it was not asked.
            ValueError: it is malformed.
        """
        if kind == "activate-node":
            if read_key(body) != account.node_key:
                raise _not_its_own("the key is another node's")
            account.begin_anew()
            self._nodes.admit(account.node_key, member.device)
        elif kind == "push-messages":
            reply = read_reply(body)
            if not reply.node == reply.sender == self._nodes.number(account.node_key):
                raise _not_its_own("the reply is in another device's name")
            if not account.was_asked(reply.reply_to):
                raise _not_its_own("the reply is to a message that the device was not sent")
        elif kind == "pull-object" and not account.may_fetch(read_wanted(body)):
            raise _not_its_own("the object is not part of a message to this device")
        elif kind == "confirm-message-received" and not account.was_asked(read_confirmed(body)):
            raise _not_its_own("the message was not sent to this device")

    def _noting_orders(self, account: Account, send: Send) -> Send:
        """`send`, which holds an answer back until what is ordered in it has been noted."""
        held: list[Message] = []

        async def note_and_send(message: Message) -> None:
            held.append(message)
            if message["type"] == "http.response.start" or message.get("more_body", False):
                return
            if held[0]["status"] == 200:
                upload = self._largest_weights() + UPLOAD_ROOM
                for order, objects in read_orders(b"".join(part.get("body", b"") for part in held)):
                    account.take_order(order, objects, upload)
            for part in held:
                await send(part)

        return note_and_send


class OpenGate:
    """The gate under --insecure-loopback: the Fleet API for whoever asks, within the same bounds of size.

    Args:
        superlink, own, nodes: as `Gate`.
    """

    def __init__(self, superlink: ASGIApp, own: ASGIApp, nodes: Nodes) -> None:
        self._superlink, self._own, self._nodes = superlink, own, nodes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = kind_of(scope, OPEN_LIMITS)
        if kind is None:
            await self._own(scope, receive, send)
            return
        try:
            body = await read_body(receive, announced_length(dict(scope["headers"]), OPEN_LIMITS[kind]))
            if body is None:
                return
            if kind == "register-node":
                # A device that comes back has the key it had, and Flower registers none twice.
                self._nodes.dismiss(read_key(body))
        except CoordinatorError as error:
            await refusal(error)(scope, receive, send)
        except ValueError as error:
            await refusal(malformed(str(error)))(scope, receive, send)
        else:
            await pass_on(self._superlink, scope, body, receive, send)


def kind_of(scope: Scope, known: Mapping[str, int] = LIMITS) -> str | None:
    """Which request of the Fleet API it is; None if it is none of those `known`."""
    path = scope["path"]
    # One spelling of a path only: what we check is what Flower gets to see.
    if scope["type"] != "http" or scope["method"] != "POST" or scope["raw_path"] != path.encode():
        return None
    kind = path.removeprefix(FLEET)
    return kind if path.startswith(FLEET) and kind in known else None


async def pass_on(superlink: ASGIApp, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
    """Let Flower answer a request that has been read."""
    request: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return request.pop() if request else await receive()

    try:
        await superlink(scope, replay, send)
    except Exception as error:  # noqa: BLE001 - Flower has answered with status 500 already
        log.warning("Flower could not handle a request for %s: %s", scope["path"], type(error).__name__)


def malformed(why: str) -> RefusedError:
    """The error of a request that is not what it should be."""
    return RefusedError(400, "FA-5083", f"The request is malformed: {why}.", "Update the device.")


def unavailable() -> RefusedError:
    """The error of a coordinator that cannot do its part. It says no more to whoever asks."""
    return RefusedError(
        503,
        "FA-5093",
        "The coordinator cannot answer now.",
        "Try again later; tell its operator to look into its log.",
        retry_seconds=10,
    )


def _not_its_own(why: str) -> RefusedError:
    return RefusedError(403, "FA-5082", f"A device may speak for itself only: {why}.", "Update the device.")


@contextmanager
def _counted(account: Account, kind: str, length: int) -> Iterator[Callable[[], None]]:
    """Count an upload before it is read. Unless what is yielded is called, it never came."""
    if kind not in UPLOADS:
        yield lambda: None
        return
    account.count(length)
    came = False

    def keep() -> None:
        nonlocal came
        came = True

    try:
        yield keep
    finally:
        if not came:
            account.count(-length)
