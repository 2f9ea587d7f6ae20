"""The devices as the round engine sees them: somebody to ask, and replies as they come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

Kind: TypeAlias = Literal["train", "evaluate"]


@dataclass(frozen=True)
class Reply:
    """What came back from one node: bytes, or the reason there are none."""

    node: int
    data: bytes | memoryview | None
    failure: str = ""


class FleetLostError(Exception):
    """The transport between coordinator and devices is gone; a new one must be made."""


class Fleet(Protocol):
    """Nodes that can be asked. Implemented over Flower by `fl_server.app`, in one process by simulations."""

    def online(self) -> Mapping[int, str]:
        """Nodes that can be asked now, and the id of the device that each has proved to be.

        No device is there twice. The id is empty where nodes prove nothing (--insecure-loopback).
        """
        ...

    def ask(
        self, order: bytes, kind: Kind, seconds: float, weights: bytes, nodes: Iterable[int]
    ) -> Iterator[Reply]:
        """Send `order`, the bytes of a plan, and `weights` to `nodes`; yield each reply as it arrives.

        Ends when all have replied or `seconds` have passed; a node that is late is not heard any more.
        """
        ...
