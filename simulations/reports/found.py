"""Results on disk: of one run, of several seeds of it, or of a sweep over a grid."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from common.errors import SimulationError
from common.files import read_if_there
from common.log import printable
from common.settings import Model, first_fault
from simulations.results import SimulationResults
from simulations.sweep_results import Cell, SweepResults

RESULTS, SWEEP = "results.json", "sweep.json"


@dataclass(frozen=True)
class Found:
    """The results of one scenario.

    Args:
        seeds: one for each, ascending; never empty.
        missing: folders of seeds that have no results yet.
    """

    seeds: tuple[SimulationResults, ...]
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class FoundSweep:
    """A sweep's table, and the results behind those of its cells that are still there."""

    table: SweepResults
    cells: tuple[tuple[Cell, Found], ...]


def find_results(folder: Path) -> Found | FoundSweep:
    """What is in `folder`: results.json, folders seed-N with one each, or sweep.json.

    Raises:
        SimulationError: FA-9303 there is nothing, FA-9304 it cannot be read, FA-9305 it does not belong
            together.
        StorageError: FA-8001.
    """
    data = read_if_there(folder / SWEEP)
    if data is None:
        return find_run(folder)
    table = _parse(SweepResults, folder / SWEEP, data)
    return FoundSweep(table, tuple(_cells(folder, table)))


def find_run(folder: Path) -> Found:
    """The results of one scenario in `folder`.

    Raises:
        SimulationError: as `find_results`.
        StorageError: FA-8001.
    """
    one = read_results(folder / RESULTS)
    if one is not None:
        return Found((one,))
    folders = sorted(
        (int(match[1]), path) for path in folder.glob("seed-*") if (match := _SEED.fullmatch(path.name))
    )
    read = [(path, read_results(path / RESULTS)) for _, path in folders]
    seeds = tuple(results for _, results in read if results is not None)
    if not seeds:
        raise SimulationError(
            "FA-9303",
            f"There are no results in {printable(str(folder))}.",
            "Name the folder that `fedaudio simulate run` or `fedaudio simulate sweep` wrote to.",
        )
    if len({(results.scenario, results.labels) for results in seeds}) > 1:
        raise SimulationError(
            "FA-9305",
            f"The seeds in {printable(str(folder))} are not of one scenario.",
            "Report on each of its folders alone.",
        )
    return Found(seeds, tuple(path.name for path, results in read if results is None))


def read_results(path: Path) -> SimulationResults | None:
    """results.json; None if there is none.

    Raises:
        SimulationError: FA-9304.
        StorageError: FA-8001.
    """
    data = read_if_there(path)
    return None if data is None else _parse(SimulationResults, path, data)


def _parse(model: type[Model], path: Path, data: bytes) -> Model:
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise SimulationError(
            "FA-9304",
            f"{printable(str(path))} is damaged or of another version: {printable(first_fault(error))}.",
            "Run the simulation again, or use the version of fedaudio that wrote the file.",
        ) from error


def _cells(folder: Path, table: SweepResults) -> Iterator[tuple[Cell, Found]]:
    for cell in table.cells:
        seeds = (
            read_results(folder / cell.folder / f"seed-{figures.seed}" / RESULTS) for figures in cell.seeds
        )
        if there := tuple(results for results in seeds if results is not None):
            yield cell, Found(there)


_SEED = re.compile(r"seed-(\d{1,9})")
