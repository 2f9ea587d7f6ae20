"""Runs that came to their end: of a grid, they are read and not run again."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from common.files import read_if_there
from simulations.results import SimulationResults
from simulations.scenario import Scenario


def finished(scenario: Scenario, seed: int, folder: Path) -> SimulationResults | None:
    """The results of this very simulation in `folder`; None if it is to be run or gone on with.

    Damaged results are none: they follow from the run's checkpoint, and are written again.

    Raises:
        StorageError: FA-8001.
    """
    data, about = read_if_there(folder / "results.json"), read_if_there(folder / "scenario.json")
    if data is None or about is None:
        return None
    try:
        results, known = SimulationResults.model_validate_json(data), Scenario.model_validate_json(about)
    except ValidationError:
        return None
    return results if (known, results.seed, results.interrupted) == (scenario, seed, False) else None
