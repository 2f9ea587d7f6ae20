"""What an experiment found, in the shape the demo and every simulation write as results.json."""

from __future__ import annotations

from common.settings import Settings


class Speakers(Settings):
    """Who was used for what. No name is in two lists."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    unseen: tuple[str, ...]


class RoundResult(Settings):
    """One round. Loss and accuracy are of the new version on the unseen speakers; bytes are payload."""

    round: int
    version: int
    accuracy_unseen: float
    loss: float
    seconds: float
    overhead_seconds: float
    bytes_up: int
    bytes_down: int
    participants: int
    failed: int


class Initial(Settings):
    """The untrained model."""

    accuracy_unseen: float


class Final(Settings):
    """The last version. Epsilon is that of the device that spent most; None without privacy."""

    accuracy_unseen: float
    epsilon: float | None
    delta: float | None
    unit: str | None


class Listening(Settings):
    """All listeners together; the gap is the longest of any."""

    hops: int
    dropped: int
    doubled: int
    swaps: int
    max_gap_seconds: float
    events: int


class Results(Settings):
    """All that an experiment found of the model."""

    config: dict[str, str | int | float | bool | None]
    speakers: Speakers
    initial: Initial
    rounds: tuple[RoundResult, ...]
    final: Final


class DemoResults(Results):
    """All of a demo, whose devices listened meanwhile."""

    listening: Listening
