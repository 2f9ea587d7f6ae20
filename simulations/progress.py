"""How far a simulation is, for whoever shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Doing: TypeAlias = Literal["preparing", "learning", "training", "testing", "over", "finishing"]
"""Of the first version: learning, from other clips; of a round: training, testing, over."""


@dataclass(frozen=True)
class Progress:
    """The state at one moment; told often, and cheap.

    Args:
        doing: what is being done now.
        round: the one that is held, or the last; 0 before the first.
        answered, cohort: devices that have answered in it, and that were asked.
        accuracy: of the newest version on the unseen, as far as it was tested.
        epsilon: spent so far by the device that spent most; None without privacy.
        attack_success: of a backdoor, as last tested.
        void: code of the error that made the round void, when it is over.
        sources: names of what the first version learns from.
        seconds_left: until the last round is over, going by those of this run; None before the first.
    """

    doing: Doing
    rounds: int
    round: int = 0
    answered: int = 0
    cohort: int = 0
    accuracy: float = 0.0
    epsilon: float | None = None
    attack_success: float | None = None
    void: str | None = None
    sources: tuple[str, ...] = ()
    seconds_left: float | None = None
