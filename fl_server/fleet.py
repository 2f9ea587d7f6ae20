"""The devices as the round engine sees them: somebody to ask, and replies as they come."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from common.protocol.plan import Plan


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

    def online(self) -> list[int]:
        """Nodes that can be asked now."""
        ...

    def ask(self, plan: Plan, weights: bytes, nodes: Sequence[int]) -> Iterator[Reply]:
        """Send `plan` and `weights` to `nodes`; yield each reply as it arrives.

        Ends when all have replied or `plan.seconds` have passed; a node that is late is not heard any more.
        """
        ...
