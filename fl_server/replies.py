"""Putting together what devices reply, from the parts that Flower cuts a message into, within bounds."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flwr.app import Array, Message
from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import (
    get_object_body,
    get_object_head_values_from_object_content,
    iterate_object_tree,
)
from flwr.supercore.inflatable.inflatable_utils import ObjectUnavailableError, inflate_object_from_contents

MOST_PARTS = 64
"""Parts of a reply beside the pieces of arrays; an honest one has four."""


@dataclass
class Announced:
    """A reply whose head has arrived.

    Args:
        message: its id.
        reply_to: the id of the message that it answers.
        parts: ids of the objects it consists of.
        until: by `time.monotonic`, when they must be there.
    """

    message: str
    reply_to: str
    parts: list[str]
    until: float


def parts_of(tree: ObjectTree) -> list[str]:
    """Ids in `tree`, each once; a device may write one as often as it likes."""
    return list(dict.fromkeys(part.object_id for part in iterate_object_tree(tree)))


def assemble(announced: Announced, fetch: Callable[[str], bytes], limit: int) -> Message:
    """The reply, from parts of at most `limit` bytes together, also when it repeats them.

    Raises:
        ObjectUnavailableError: a part has not arrived yet; it is the first to be asked for the next time.
        ValueError: it is larger or in too many parts, or no message. Much else too, for Flower believes what
            is in the parts.
    """
    if len(announced.parts) > MOST_PARTS + limit // FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE:
        raise ValueError(f"the reply is in {len(announced.parts)} parts")
    parts: dict[str, bytes] = {}
    fetch_within = _limited(fetch, limit)
    for name in list(announced.parts):
        try:
            parts[name] = fetch_within(name)
        except ObjectUnavailableError:
            announced.parts.remove(name)
            announced.parts.insert(0, name)
            raise
    if _unfolded(parts) > limit:
        raise ValueError(f"the reply is larger than {limit} bytes")
    message = inflate_object_from_contents(announced.message, parts)
    if not isinstance(message, Message):
        raise ValueError("the reply is no message")
    message.metadata.__dict__["_message_id"] = announced.message
    message.metadata.__dict__["_reply_to_message_id"] = announced.reply_to
    return message


def _unfolded(parts: Mapping[str, bytes]) -> int:
    """Bytes of all arrays in `parts`: an array lists its pieces, and may list one a million times."""
    total = 0
    for content in parts.values():
        kind, children, _ = get_object_head_values_from_object_content(content)
        if kind == Array.__qualname__:
            pieces = json.loads(get_object_body(content, Array))["arraychunk_ids"]
            total += sum(len(parts[children[piece]]) for piece in pieces)
    return total


def _limited(fetch: Callable[[str], bytes], limit: int) -> Callable[[str], bytes]:
    """`fetch` for the parts of one reply, given up when they are larger together than any honest one."""
    left = limit

    def fetch_within(name: str) -> bytes:
        nonlocal left
        part = fetch(name)
        left -= len(part)
        if left < 0:
            raise ValueError(f"the reply is larger than {limit} bytes")
        return part

    return fetch_within
