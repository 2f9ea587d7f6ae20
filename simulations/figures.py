"""Figures of a run that more than one table states, each worked out in one way."""

from __future__ import annotations

from simulations.results import SimulationResults

SEEDED = "Noise was seeded: it protects nobody."
"""Said under every table with a run whose privacy noise came from its seed."""


def devices_accuracy(results: SimulationResults) -> float | None:
    """Of the last version on the clips that devices keep, all together: every clip counts the same.

    None where devices keep none.
    """
    clips = sum(device.clips for device in results.devices)
    return sum(device.correct for device in results.devices) / clips if clips else None


def validation_accuracy(results: SimulationResults) -> float | None:
    """Of the last version on the coordinator's own clips; None without such, or without a version."""
    made = [held for held in results.rounds if held.void is None]
    return made[-1].accuracy_validation if made else None
